"""What a model is: names, run folders and their metadata, loading, weights, engines, safety."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
