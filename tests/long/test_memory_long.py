"""Tiling takes no more memory on a larger slide. Run with ``pytest tests/long``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.slide_helpers import texture

from wsivit.store import TileStore

NATIVE, COARSEST = 256, 16
CHILD = """
import resource, sys
from wsivit.cli import main
try:
    main(sys.argv[1:])
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def vast_slide(path: Path, width: int, height: int) -> Path:
    """Write a slide of any size, all of it made of one tile of tissue and one of glass, each stored once."""
    tissue = np.clip(texture(NATIVE, NATIVE, grain=6) // 2 + [110, 60, 100], 0, 255).astype(np.uint8)
    glass = np.full((NATIVE, NATIVE, 3), 243, np.uint8)
    streams = [simplejpeg.encode_jpeg(picture, 60, "RGB", "420") for picture in (glass, tissue)]
    sizes = [(width // factor, height // factor) for factor in (1, 4, COARSEST)]
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, (w, h) in enumerate(sizes):
            blank = (b"" for _ in range(-(-w // NATIVE) * -(-h // NATIVE)))
            tiff.write(
                blank, shape=(h, w, 3), dtype=np.uint8, tile=(NATIVE, NATIVE), photometric="ycbcr", subsampling=(2, 2),
                compression="jpeg", metadata=None, software="", subfiletype=int(level > 0),
                description=f"Aperio made for a test\r\n{w}x{h}|AppMag = 40|MPP = 0.25" if level == 0 else None,
            )  # fmt: skip
    with path.open("ab") as file:
        starts = [file.seek(0, 2)]
        file.write(streams[0])
        starts.append(file.tell())
        file.write(streams[1])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page, (w, h) in zip(tiff.pages, sizes, strict=True):
            row, col = np.mgrid[0 : -(-h // NATIVE), 0 : -(-w // NATIVE)] * NATIVE * (width // w) // 4096 * 4096 + 2048
            inside = ((col / width - 0.5) / 0.4) ** 2 + ((row / height - 0.5) / 0.4) ** 2 < 1
            kind = inside.ravel().astype(int)
            page.tags["TileOffsets"].overwrite([starts[k] for k in kind])
            page.tags["TileByteCounts"].overwrite([len(streams[k]) for k in kind])
    return path


@pytest.mark.parametrize("size", [(40_960, 30_720), (117_248, 55_296)], ids=str)
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_the_peak_does_not_grow_with_the_slide(tmp_path: Path, size: tuple[int, int], mpp: float) -> None:
    slide = vast_slide(tmp_path / "s.svs", *size)
    words = ["tile", slide, "-o", tmp_path, "--mpp", str(mpp), "--quiet"]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True)
    said, _, peak = done.stdout.rpartition("PEAK ")
    sys.stderr.write(f"{size} at {mpp}: {said.splitlines()[0]}; {int(peak) / 1024:.0f} MiB\n")
    assert len(TileStore(tmp_path / "s.zarr")) > 0.4 * size[0] * size[1] / (NATIVE * mpp / 0.25) ** 2
    assert int(peak) < 500 * 1024
