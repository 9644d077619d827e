"""What data at a distance cost: requests and bytes per tile, and the index of a thousand stores.

    python tests/benchmarks/remote.py requests
    python tests/benchmarks/remote.py index

``requests`` tiles a slide from a web server of this machine that waits before each answer, and counts. ``index`` makes
1,000 simulated stores of 10,000 tiles (columns, no pixels; not timed, and not brought to the disk), indexes them, reads
the index, orders an epoch, and does what training does before its first batch: split, audit, the split's file. It tells
times and the most memory that was taken.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.remote_helpers import Files, serving
from support.small_slides import tissue_picture, write_slide

import wsivit
from wsivit import tile
from wsivit.data.index import shards_of
from wsivit.data.leakage import check_leakage
from wsivit.data.loading import load_samples
from wsivit.data.shard_shuffle import OrderOptions, epoch_order
from wsivit.data.splits import official_split, write_split
from wsivit.slide import ReadPlan
from wsivit.slide.grid import TileGrid
from wsivit.store import StoreParameters, StoreWriter, TileStore, TileTable

LATENCY = 0.03


def requests(folder: Path) -> None:
    slide = write_slide(folder / "slide.tiff", tissue_picture(8000, 6000), tile=256, levels=4)
    begun = time.perf_counter()
    near = tile(slide, folder / "near").store
    near_s = time.perf_counter() - begun
    with serving(Files, files={"/slide.tiff": slide.read_bytes()}, latency=LATENCY) as server:
        begun = time.perf_counter()
        far = tile(f"http://{server.address}/slide.tiff", folder / "far").store
        far_s = time.perf_counter() - begun
    same = np.array_equal(far.read(far.readable[:200]), near.read(near.readable[:200]))
    stored = sum(file.stat().st_size for file in near.path.joinpath("tiles").iterdir())
    print(f"slide       {slide.stat().st_size / 1e6:.1f} MB, {len(far)} tiles, the same pixels: {same}")
    print(f"requests    {len(server.requests)}: {len(server.requests) / len(far):.3f} per tile")
    print(f"bytes       {server.bytes_sent / len(far):,.0f} per tile; a tile in the store has {stored / len(far):,.0f}")
    print(f"time        {far_s:.1f} s at {LATENCY * 1000:.0f} ms an answer; from the disk {near_s:.1f} s")


def index(folder: Path, stores: int, tiles: int) -> None:
    with mock.patch("os.fsync"):
        _simulate(folder / "stores", stores, tiles)
    print(f"simulated   {stores} stores of {tiles} tiles, memory {_memory():.0f} MB")
    begun = time.perf_counter()
    made = wsivit.index([folder / "stores"], folder / "index.parquet", label="region", holdout=0.2)
    size = Path(made.path).stat().st_size
    print(f"index       {made.tiles:,} tiles in {time.perf_counter() - begun:.1f} s, {size / 1e6:.1f} MB")
    begun = time.perf_counter()
    samples = load_samples([folder / "index.parquet"])
    print(f"read        {time.perf_counter() - begun:.1f} s, most memory so far {_memory():.0f} MB")
    shard = shards_of(samples)
    for balanced in (False, True):
        begun = time.perf_counter()
        order = epoch_order(shard, samples.code, 0, 0, OrderOptions(balanced=balanced))
        seconds = time.perf_counter() - begun
        assert len(order) == len(shard)
        print(f"epoch order {seconds:.1f} s{', balanced' if balanced else ''}, most memory so far {_memory():.0f} MB")
    begun = time.perf_counter()
    split = official_split(samples)
    assert check_leakage(samples, split) == []
    print(f"audit       {time.perf_counter() - begun:.1f} s, most memory so far {_memory():.0f} MB")
    begun = time.perf_counter()
    write_split(folder / "split.csv", samples, split)
    print(f"split.csv   {time.perf_counter() - begun:.1f} s, most memory so far {_memory():.0f} MB")


def _simulate(folder: Path, stores: int, tiles: int) -> None:
    """Write stores of columns alone: the first in full, the others as copies under other names and fingerprints."""
    side = round(tiles**0.5)
    grid = TileGrid(256, 0, side * 256, side * 256, 1.0, 1.0)
    col, row = grid.cells()
    table = TileTable.from_grid(grid, col, row, np.ones(len(col), np.float32))
    for k in range(stores):
        parameters = StoreParameters(
            slide_id=f"s{k:04}",
            slide_path="",
            slide_fingerprint=f"sha256:{k:064x}",
            slide_size=(side * 256, side * 256),
            slide_mpp=(0.5, 0.5),
            scale={},
            requested_mpp=0.5,
            mpp=(0.5, 0.5),
            plan=ReadPlan(0.5, 0.5, 0.5, 0, 1, 1.0, 1.0, 1.0, 1.0, side * 256, side * 256),
            grid=grid,
            tissue={},
            min_tissue=0.5,
            codec="none",
        )
        store = folder / f"s{k:04}.zarr"
        with StoreWriter.open(store, parameters, table) as writer:
            writer.finish()
        TileStore(store).write_labels("region", (col * (k % 7 + 1) + row) % 10 // 9, ("stroma", "tumor"))


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["requests", "index"])
    parser.add_argument("--stores", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=10_000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wsivit-remote-"))
    try:
        if given.what == "requests":
            requests(folder)
        else:
            index(folder, given.stores, given.tiles)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
