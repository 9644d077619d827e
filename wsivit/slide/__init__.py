"""Slides: one interface over a native decoder, OpenSlide, tiffslide and flat images, at exact physical scale."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
