"""The tiles of a store as other tools take them: where each is, and what an encoder or a run makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.store import TileStore


@dataclass(frozen=True)
class FeatureBag:
    """Tiles of one store with the features of one encoder.

    Attributes
    ----------
    store : TileStore
    tiles : int64 (n,)
        Which tiles: those that can be read, and whose features are finite.
    encoder : str or None
        None for coordinates alone.
    features : float16 (n, d) or None
    fingerprint : str
        Of the encoder's weights and rules; empty where the store does not say.
    data : HeatmapData or None
        Predictions of the same store, for all tiles.
    """

    store: TileStore
    tiles: NDArray[np.int64]
    encoder: str | None = None
    features: NDArray[np.float16] | None = None
    fingerprint: str = ""
    data: HeatmapData | None = None

    @property
    def slide_id(self) -> str:
        """Name of the slide."""
        return self.store.parameters.slide_id

    @property
    def coords(self) -> NDArray[np.int64]:
        """Top-left corners, int64 (n, 2): ``x0, y0`` in level-0 pixels from the corner of the whole image."""
        return np.stack([self.store.x0[self.tiles], self.store.y0[self.tiles]], axis=1)

    @property
    def required_features(self) -> NDArray[np.float16]:
        """The features; UsageError where the store has none."""
        if self.features is None:
            raise UsageError(
                f"{self.store.url}: no features in this store; make some: wsivit features {self.store.url} --encoder …"
            )
        return self.features


def read_features(store: TileStore, encoder: str | None, data: HeatmapData | None = None) -> FeatureBag:
    """Read the features of an encoder: of the named one, else of the only one; coordinates alone where there is none.

    Raises
    ------
    UsageError
        If the store has no such encoder, or several and none was chosen, or vectors of every token of a tile.
    StoreError
        If the features do not fit the tiles.
    """
    encoder = chosen_encoder(store, encoder)
    if encoder is None:
        return FeatureBag(store, store.readable, data=data)
    column = store.features(encoder)
    where = f"{store.url}/features/{encoder}"
    if column.values.ndim == 3:
        raise UsageError(f"{where} has a vector for every token of a tile; other tools take one for each tile")
    if column.values.ndim != 2 or len(column.values) != len(store):
        raise StoreError(f"{where} is {column.values.shape} for {len(store)} tiles; make the features again")
    # A tile that could not be encoded has NaN, which other tools would learn from.
    tiles = store.readable[np.isfinite(column.values[store.readable]).all(axis=1)]
    if not len(tiles):
        raise StoreError(f"{where} has no features for any of {len(store)} tiles; make them again")
    attrs = column.attrs
    fingerprint = attrs.get("encoder_fingerprint") or attrs.get("model_fingerprint") or ""
    return FeatureBag(store, tiles, encoder, column.values[tiles], str(fingerprint), data)


def chosen_encoder(store: TileStore, encoder: str | None) -> str | None:
    """Name the encoder that is meant; None where the store has no features. UsageError for several and none chosen."""
    if encoder is None and len(store.encoders) > 1:
        names = ", ".join(store.encoders)
        raise UsageError(f"{store.url}: features of several encoders; choose one of {names} (--encoder)")
    return encoder or next(iter(store.encoders), None)


def import_h5py() -> ModuleType:
    """Return h5py; UsageError with the way to get it."""
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UsageError('writing H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None
    module: ModuleType = h5py
    return module
