"""Where the tissue is, from a low-power view of a slide. Pure on arrays."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
