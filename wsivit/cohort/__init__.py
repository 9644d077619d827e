"""Many slides: which jobs there are, what became of each, and where they run."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
