"""Studies of many small stores of features, written on the spot, with labels that the features follow or do not."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from support.store_helpers import parameters, table

from wsivit.slide.grid import TileGrid
from wsivit.store import Status, StoreWriter, TileStore

DIM = 8
ATTRS = {"model_fingerprint": "sha256:enc", "model": "enc", "pooling": "cls"}


@dataclass
class Study:
    """A folder of stores, and who they are of."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def write_labels(self, path: Path | None = None, rows: Sequence[dict[str, str]] | None = None) -> Path:
        path, rows = path or self.folder.parent / "labels.csv", self.rows if rows is None else rows
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path


def write_slide(
    folder: Path, name: str, features: NDArray[np.float64], *, encoder: str = "enc", mpp: float = 0.5, **attrs: object
) -> TileStore:
    """Write a store of coordinates and features (n, d) in rows of 8 tiles."""
    rows = max(1, -(-len(features) // 8))
    grid = TileGrid(32, 0, 8 * 32, rows * 32, 1.0, 1.0)
    given = parameters(
        slide_id=name,
        slide_path=f"/nowhere/{name}.svs",
        slide_fingerprint=f"sha256:{name}",
        slide_size=(8 * 32, rows * 32),
        grid=grid,
        codec="none",
        mpp=(mpp, mpp),
        requested_mpp=mpp,
    )
    tiles = table(given)
    kept = {
        key: getattr(tiles, key)[: len(features)] for key in ("col", "row", "x0", "y0", "tissue_fraction", "status")
    }
    tiles = type(tiles)(**kept)
    tiles.status[:] = Status.OK
    with StoreWriter.open(folder / f"{name}.zarr", given, tiles) as writer:
        writer.write_mask(np.ones((rows, 8), bool), (32.0, 32.0))
        writer.write_thumbnail(np.full((rows, 8, 3), 200, np.uint8), (32.0, 32.0))
        writer.finish()
    store = TileStore(folder / f"{name}.zarr")
    write_features(store, features, encoder, **attrs)
    return store


def write_features(store: TileStore, features: NDArray[np.float64], encoder: str = "enc", **attrs: object) -> None:
    """Write, or replace, the features of a store."""
    if encoder in store.encoders:
        store.files.remove(f"features/{encoder}")
    with store.features_writer(encoder, features.shape[1:], ATTRS | attrs) as writer:
        for block in writer.pending():
            writer.write(block, features[block.start : block.stop].astype(np.float16))
        writer.finish()


def draw(
    positive: bool, rng: np.random.Generator, *, tiles: int = 24, focus: float = 0.25, shift: float = 2.0
) -> NDArray[np.float64]:
    """Draw tiles; of a positive slide the first share of them is shifted in the first feature."""
    features = rng.normal(size=(tiles, DIM))
    if positive:
        features[: max(1, round(focus * tiles)), 0] += shift
    return features


def write_study(
    folder: Path,
    patients: int = 40,
    *,
    seed: int = 0,
    sites: int = 1,
    features: Callable[[int, bool, str, np.random.Generator], NDArray[np.float64]] | None = None,
    label: Callable[[int, str, np.random.Generator], bool] | None = None,
) -> Study:
    """Write a study of one slide per patient, every second one positive, sites in turn."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(folder)
    with without_sync():
        _fill(study, patients, sites, rng, features, label)
    return study


@contextmanager
def without_sync() -> Iterator[None]:
    """Leave out the waits for the disk, which would take a quarter of a second per store."""
    with mock.patch("os.fsync"):
        yield


def _fill(
    study: Study,
    patients: int,
    sites: int,
    rng: np.random.Generator,
    features: Callable[[int, bool, str, np.random.Generator], NDArray[np.float64]] | None,
    label: Callable[[int, str, np.random.Generator], bool] | None,
) -> None:
    for number in range(patients):
        site = f"site-{number // 2 % sites}"
        positive = number % 2 == 1 if label is None else label(number, site, rng)
        drawn = draw(positive, rng) if features is None else features(number, positive, site, rng)
        write_slide(study.folder, f"s{number:03}", drawn)
        study.rows.append(
            {"patient": f"p{number:03}", "slide": f"s{number:03}", "msi": "MSI" if positive else "MSS", "site": site}
        )
