"""The sample slides, and the tour from a slide to a heatmap."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
