"""Many slides: which to process, the status of each, and the processes that do it."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
