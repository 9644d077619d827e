"""What a prediction rests on, per slide."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
