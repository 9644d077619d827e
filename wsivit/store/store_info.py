"""What is in a store: tiles by status, scale, labels, predictions, features, sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsivit.io import Described, format_bytes, x_by_y
from wsivit.store.parameters import Status
from wsivit.store.reader import TileStore
from wsivit.store.schema import read_journal


@dataclass(frozen=True)
class StoreInfo(Described):
    """What is in a tile store.

    Attributes
    ----------
    path : str
        Path or URL of the store.
    slide_id, slide_path : str
        The slide, and where it was when the store recorded it.
    complete : bool
        Whether all tiles are written.
    tiles : int
    status : dict of str to int
        Tiles of each status: ``ok``, ``padded``, ``unreadable``, ``missing``; empty while the store is not complete.
    tile_size, overlap : int
        In pixels.
    mpp : (float, float)
        Microns per pixel of the tiles, x and y.
    slide_mpp : (float, float)
        Of the slide, and where it is from:
    scale_source : str
    codec : str
    tissue : str
        How tissue was found.
    bytes : int
        Size of the tiles' pixels.
    labels : dict of str to (dict of str to int)
        Tiles of each class, by label column.
    predictions : dict of str to (dict of str to float)
        Mean probability of each class, by run.
    features : dict of str to tuple of int
        Shape of each tile's features, by encoder.
    versions : dict of str to str
        Of the packages that the store was made with.
    """

    path: str
    slide_id: str
    slide_path: str
    complete: bool
    tiles: int
    status: dict[str, int]
    tile_size: int
    overlap: int
    mpp: tuple[float, float]
    slide_mpp: tuple[float, float]
    scale_source: str
    codec: str
    tissue: str
    bytes: int
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    predictions: dict[str, dict[str, float]] = field(default_factory=dict)
    features: dict[str, tuple[int, ...]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def rows(self) -> Mapping[str, str]:
        """See `Described`."""
        overlap = f", {self.overlap} px overlap" if self.overlap else ""
        states = ", ".join(f"{count} {name}" for name, count in self.status.items() if count)
        pixels = "coordinates only, pixels are read from the slide" if self.codec == "none" else self.codec
        size = f", {format_bytes(self.bytes)}" if self.bytes else ""
        return {
            "store": self.path + ("" if self.complete else ": not complete, it is being written or was interrupted"),
            "slide": f"{self.slide_id}, {self.slide_path}",
            "tiles": f"{self.tiles} of {self.tile_size} px{overlap}" + (f": {states}" if states else ""),
            "scale": f"{x_by_y(self.mpp)} µm/px, of a slide at {x_by_y(self.slide_mpp)} ({self.scale_source})",
            "pixels": pixels + size,
            "tissue": self.tissue,
            "labels": "\n".join(
                f"{name}: {', '.join(f'{title} {count}' for title, count in classes.items())}"
                for name, classes in self.labels.items()
            ),
            "predictions": "\n".join(
                f"{run}: {', '.join(f'{title} {mean:.3f}' for title, mean in means.items())} (mean probability)"
                for run, means in self.predictions.items()
            ),
            "features": "\n".join(
                f"{encoder}: {' x '.join(map(str, shape))} per tile" for encoder, shape in self.features.items()
            ),
            "made by": ", ".join(f"{name} {number}" for name, number in self.versions.items() if name == "wsivit"),
        }


def store_info(store: TileStore | str | os.PathLike[str]) -> StoreInfo:
    """Describe a store, complete or not.

    Raises
    ------
    StoreError
        If there is no tile store, or it is damaged.
    """
    opened = store if isinstance(store, TileStore) else TileStore(store, allow_incomplete=True)
    parameters = opened.parameters
    status = {}
    if opened.complete:  # the columns are written last
        status = {known.name.lower(): int(np.count_nonzero(opened.status == known)) for known in Status}
    return StoreInfo(
        path=opened.url,
        slide_id=parameters.slide_id,
        slide_path=parameters.slide_path,
        complete=opened.complete,
        tiles=len(opened),
        status=status,
        tile_size=opened.grid.tile_size,
        overlap=opened.grid.overlap,
        mpp=parameters.mpp,
        slide_mpp=parameters.slide_mpp,
        scale_source=str(parameters.scale.get("source", "unknown")),
        codec=parameters.codec,
        tissue=str(parameters.tissue.get("method", "")),
        bytes=sum(entry.bytes for entry in read_journal(opened.files).values()),
        labels={name: _counts(opened, name) for name in opened.labels},
        predictions={run: _means(opened, run) for run in opened.runs},
        features={name: opened.features_shape(name) for name in opened.encoders},
        versions=opened.versions,
    )


def _counts(store: TileStore, name: str) -> dict[str, int]:
    column = store.label(name)
    counts = {title: int((column.codes == code).sum()) for code, title in enumerate(column.classes)}
    return {**counts, "none": int((column.codes < 0).sum())}


def _means(store: TileStore, run: str) -> dict[str, float]:
    predictions = store.predictions(run)
    known = predictions.probabilities[np.isfinite(predictions.probabilities).all(axis=1)]
    means: Any = known.mean(axis=0, dtype=np.float64) if len(known) else np.full(len(predictions.classes), np.nan)
    return dict(zip(predictions.classes, map(float, means), strict=True))
