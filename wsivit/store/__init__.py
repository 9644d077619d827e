"""The tile store: one zarr v3 group per slide, written shard by shard, read at the speed of the decoder."""

from wsivit.store.columns import LabelColumn, Predictions
from wsivit.store.parameters import Status, StoreParameters, TileTable
from wsivit.store.reader import TileStore
from wsivit.store.writer import StoreWriter

__all__ = ["LabelColumn", "Predictions", "Status", "StoreParameters", "StoreWriter", "TileStore", "TileTable"]
