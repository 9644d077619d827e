"""Where the tissue is: found on a low-power view of a slide, drawn by a person, or read from a mask image."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
