"""Looking at slides, tiles and scores: a page in the browser, served by this process on this machine."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
