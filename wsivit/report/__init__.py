"""Reports: one HTML file of a run, a slide or a study."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
