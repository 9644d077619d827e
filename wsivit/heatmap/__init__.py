"""From tile scores to a score map, its picture, and one module per export form."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
