"""Which slides are meant: by path, folder, glob, list, table or URL, each with an id of its own."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
