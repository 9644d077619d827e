"""What every test may use: where the real slides are, and small slides written on the spot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import settings
from numpy.typing import NDArray

# Tests run side by side, a process for each core: more threads in each (torch, BLAS) only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In the background of a script Ctrl-C is ignored, and what wsivit starts with ignored it leaves so.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("wsivit", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("wsivit")

SHARED = Path(os.environ.get("WSIVIT_TEST_DATA", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, so that figures are the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_slide() -> Callable[[str], Path]:
    """Return a function from a file name to a real slide's path; skips the test where it is not at hand."""

    def find(name: str) -> Path:
        path = SHARED / "slides" / name
        if not path.exists():
            pytest.skip(f"real slide {name} is not at hand (set WSIVIT_TEST_DATA)")
        return path

    return find


def tissue_picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Paint pink, textured tissue in an ellipse on white glass; uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    inside = ((x / width - 0.5) / 0.38) ** 2 + ((y / height - 0.5) / 0.36) ** 2 < 1
    picture = np.full((height, width, 3), 243, np.uint8)
    tissue = np.array([205, 140, 185]) + rng.normal(0, 18, (height, width, 1))
    picture[inside] = np.clip(tissue, 0, 255).astype(np.uint8)[inside]
    return picture


def write_slide(
    path: Path, picture: NDArray[np.uint8], *, mpp: float | None = 0.5, levels: int = 2, tile: int = 128
) -> Path:
    """Write a pyramidal tiled JPEG TIFF (YCbCr 4:2:0, halved per level) with its scale in the resolution tags."""
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        for level in range(levels):
            scale = {} if mpp is None else {"resolution": (1e4 / (mpp * 2**level),) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(
                picture[:: 2**level, :: 2**level],
                tile=(tile, tile),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": 90, "outcolorspace": "YCBCR"},
                subfiletype=1 if level else 0,
                metadata=None,
                **scale,
            )
    return path
