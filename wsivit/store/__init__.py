"""The tile store: one zarr v3 group per slide, written shard by shard, read at the speed of the decoder."""

from wsivit.store.columns import LabelColumn
from wsivit.store.features import Features, FeaturesWriter
from wsivit.store.parameters import Status, StoreParameters, TileTable
from wsivit.store.predictions import Predictions, PredictionsWriter
from wsivit.store.reader import TileStore
from wsivit.store.writer import StoreWriter

__all__ = [
    "Features",
    "FeaturesWriter",
    "LabelColumn",
    "Predictions",
    "PredictionsWriter",
    "Status",
    "StoreParameters",
    "StoreWriter",
    "TileStore",
    "TileTable",
]
