"""Small stores with a separable tissue problem, painted on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import save_classifier
from wsivit.models.run_folder import RunMetadata
from wsivit.slide import ReadPlan
from wsivit.slide.grid import TileGrid
from wsivit.store import Status, StoreParameters, StoreWriter, TileStore, TileTable
from wsivit.store.shard import encode_jpeg

CLASSES = ("stroma", "tumor")


def tissue(kind: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint few small (0) or many large (1) dark nuclei on pink ground of one mean colour; uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size]
    density = np.zeros((size, size))
    count, radius = ((size // 24) ** 2, 2.5) if kind == 0 else ((size // 12) ** 2, 3.5)
    for cx, cy in rng.uniform(0, size, (count, 2)):
        density += np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2)))
    density = np.clip(density, 0, 1)[..., None]
    ground, nucleus = np.array([214, 150, 190]), np.array([90, 60, 130])
    picture = ground * (1 - density) + nucleus * density + rng.normal(0, 6, (size, size, 3))
    return np.clip(picture + rng.uniform(-12, 12), 0, 255).astype(np.uint8)


def parameters(name: str, columns: int, rows: int, size: int, mpp: float = 0.5, overlap: int = 0) -> StoreParameters:
    step = size - overlap
    width, height = step * columns + overlap, step * rows + overlap
    plan = ReadPlan(mpp, mpp, mpp, 0, 1, 1.0, 1.0, 1.0, 1.0, width, height)
    return StoreParameters(
        slide_id=name,
        slide_path=f"{name}.tiff",
        slide_fingerprint=f"sha256:{name}",
        slide_size=(width, height),
        slide_mpp=(mpp, mpp),
        scale={},
        requested_mpp=mpp,
        mpp=(mpp, mpp),
        plan=plan,
        grid=TileGrid.from_plan(plan, size, overlap),
        tissue={},
        min_tissue=0.0,
        shard_tiles=64,
    )


def write_store(
    folder: Path,
    name: str,
    *,
    columns: int = 16,
    rows: int = 8,
    size: int = 48,
    mpp: float = 0.5,
    seed: int = 0,
    overlap: int = 0,
    unreadable: tuple[int, ...] = (),
    codes: NDArray[np.int16] | None = None,
) -> TileStore:
    """Write ``<name>.zarr``: stroma in the left half, tumour in the right one, label ``region``, two tiles without."""
    rng = np.random.default_rng(seed)
    given = parameters(name, columns, rows, size, mpp, overlap)
    col, row = given.grid.cells()
    truth = (col >= columns // 2).astype(np.int16)
    table = TileTable.from_grid(given.grid, col, row, np.ones(len(col), np.float32))
    table.status[:] = Status.OK
    with StoreWriter.open(folder / f"{name}.zarr", given, table) as writer:
        for tiles in writer.pending():
            chunks = [None if i in unreadable else encode_jpeg(tissue(int(truth[i]), size, rng), 92) for i in tiles]
            writer.write_shard(tiles, chunks)
        writer.write_mask(np.ones((rows, columns), bool), (float(size), float(size)))
        writer.write_thumbnail(np.full((rows, columns, 3), 200, np.uint8), (float(size), float(size)))
        writer.finish()
    store = TileStore(folder / f"{name}.zarr")
    labels = truth if codes is None else codes
    if codes is None:
        labels[[0, -1]] = -1
    store.write_labels("region", labels, CLASSES)
    return store


def make_run(
    folder: Path, *, seed: int = 0, mpp: float | None = 0.5, tile_size: int = 48, temperature: float = 1
) -> Path:
    """A run folder whose model was never trained: what it says does not matter here, only that it says it."""
    torch.manual_seed(seed)
    made = create_classifier("test_vit", CLASSES, pretrained=False, image_size=32)
    fingerprint = save_classifier(made, folder)
    contract = RunMetadata("test_vit", CLASSES, "region", mpp, tile_size, made.preprocessing, [], {}, {}, fingerprint)
    replace(contract, temperature=temperature).write(folder)
    return folder
