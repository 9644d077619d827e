"""The tile store: one zarr v3 group per slide, written shard by shard, read at the speed of the decoder."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
