"""One slide into one tile store; annotations to labels; the preview; tiles of other tools."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
