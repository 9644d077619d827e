"""Time and memory of stitching and of each export, at 100,000 tiles: ``python tests/benchmarks/heatmaps.py [TILES]``.

Each row is measured in a process of its own. Memory is the most that the process ever held (Linux), with Python, the
libraries and the store's columns in it; "nothing" is that alone.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

NEED_PIXELS = ("contact",)


def peak_mb() -> float:
    # Not getrusage: its maximum survives exec, and so would be that of the parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def make(path: Path, tiles: int) -> None:
    """A square slide of so many tiles, overlapping by a half, with blobs of high probability and some noise."""
    from support.heatmap_helpers import make_store

    side = math.ceil(tiles**0.5)
    width = (side + 1) * 128
    rng = np.random.default_rng(0)
    spots = rng.uniform(0, width, (60, 2))

    def blobs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        near = np.min(np.hypot(x[:, None] - spots[:, 0], y[:, None] - spots[:, 1]), axis=1)
        return 1 / (1 + np.exp((near - width / 25) / (width / 200) + rng.normal(0, 1, len(x))))

    make_store(path, size0=(width, width), tile=256, overlap=128, downsample=1.0, field=blobs)


def measure(what: str, path: Path) -> None:
    """Run one row and print its seconds, memory and size."""
    from wsivit.heatmap import HeatmapOptions, export, read_heatmap_data
    from wsivit.heatmap.aggregate import score_slide
    from wsivit.heatmap.export import export_formats
    from wsivit.store import TileStore

    export_formats()
    data = read_heatmap_data(TileStore(path))
    start = time.perf_counter()
    size = 0
    if what == "stitch":
        size = read_heatmap_data(data.store).scores.scores.nbytes
    elif what == "slide scores":
        score_slide(data, 0.5)
    elif what != "nothing":
        made = export(data.store, what, options=HeatmapOptions())
        size = sum(p.stat().st_size for p in (made.rglob("*") if made.is_dir() else [made]))
    seconds = time.perf_counter() - start
    print(f"| {what} | {seconds:.2f} | {peak_mb():.0f} | {size / 1e6:.1f} |")


def main() -> None:
    """Print the table."""
    from wsivit.heatmap import Format

    if len(sys.argv) > 2:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.zarr"
        make(path, tiles)
        print(
            f"{tiles:,} tiles, overlap one half, two classes\n\n| what | s | peak MB | output MB |\n|---|---|---|---|"
        )
        for what in [
            "nothing",
            "stitch",
            "slide scores",
            *(f for f in get_args(Format) if f not in NEED_PIXELS),
        ]:
            subprocess.run([sys.executable, __file__, what, str(path)], check=True)


if __name__ == "__main__":
    main()
