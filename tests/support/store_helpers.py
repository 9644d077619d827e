"""A small store, and JPEGs of both colour cases, made without a slide."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsivit.slide import ReadPlan
from wsivit.slide.grid import TileGrid
from wsivit.store import StoreParameters, StoreWriter, TileTable
from wsivit.store.shard import encode_jpeg, encode_zstd

SIZE = 32
COLS, ROWS = 7, 5
N = COLS * ROWS


def pictures(n: int = N, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth, colourful, all different; uint8 (n, size, size, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, size // 8, size // 8, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)


def parameters(**changes: Any) -> StoreParameters:
    grid = TileGrid(SIZE, 0, COLS * SIZE - 3, ROWS * SIZE, 1.0, 1.0)
    base = StoreParameters(
        slide_id="a-slide",
        slide_path="/nowhere/a-slide.svs",
        slide_fingerprint="sha256:00",
        slide_size=(COLS * SIZE - 3, ROWS * SIZE),
        slide_mpp=(0.5, 0.5),
        scale={"source": "given", "mpp_x": 0.5},
        requested_mpp=0.5,
        mpp=(0.5, 0.5),
        plan=ReadPlan(0.5, 0.5, 0.5, 0, 1, 1.0, 1.0, 1.0, 1.0, grid.plane_width, grid.plane_height),
        grid=grid,
        tissue={"method": "none"},
        min_tissue=0.5,
        shard_tiles=8,
    )
    return replace(base, **changes)


def table(chosen: StoreParameters) -> TileTable:
    col, row = chosen.grid.cells()
    return TileTable.from_grid(chosen.grid, col, row, np.linspace(0.5, 1, len(col)))


def chunks(chosen: StoreParameters, tiles: Iterable[int], unreadable: tuple[int, ...] = ()) -> list[bytes | None]:
    """Encoded chunks of some of the pictures, as a writer takes them."""
    height, width = chosen.chunk
    size, whole = chosen.grid.tile_size, pictures(size=chosen.grid.tile_size)
    encode = encode_zstd if chosen.codec == "zstd" else partial(encode_jpeg, quality=chosen.quality)
    return [
        None if i in unreadable else encode(np.ascontiguousarray(whole[i, y : y + height, x : x + width]))
        for i in tiles
        for y in range(0, size, height)
        for x in range(0, size, width)
    ]


def write_store(path: Path, chosen: StoreParameters | None = None, unreadable: tuple[int, ...] = ()) -> Path:
    """Write a whole store, going on with what is there."""
    chosen = chosen or parameters()
    with StoreWriter.open(path, chosen, table(chosen)) as writer:
        for tiles in writer.pending():
            writer.write_shard(tiles, chunks(chosen, tiles, unreadable))
        writer.write_mask(np.eye(6, 9, dtype=bool), (24.5, 26.0))
        writer.write_thumbnail(pictures(1, 64)[0], (3.5, 2.5))
        writer.finish()
    return path


def file_digest(content: bytes) -> str:
    """sha256 of a file, leaving out where the slide of a store is: that differs between two places of one store."""
    if b'"slide_relative_path"' in content:
        content = re.sub(rb'"(slide_(relative_)?path|checksum)": "[^"]*"', b"", content)
    return hashlib.sha256(content).hexdigest()


def tree_digest(path: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by `file_digest`."""
    return {
        str(file.relative_to(path)): file_digest(file.read_bytes())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def rgb_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG whose components are R, G, B, as Aperio writes: its only sign of that is an APP14 with transform 0."""
    import imagecodecs

    plain = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB")
    return with_adobe(plain, 0)


def ycbcr_jpeg(pixels: NDArray[np.uint8], subsampling: str = "420") -> bytes:
    """A YCbCr JPEG that says so by an APP14 with transform 1."""
    return with_adobe(simplejpeg.encode_jpeg(pixels, quality=95, colorsubsampling=subsampling), 1)


def with_adobe(jpeg: bytes, transform: int) -> bytes:
    """Drop every APPn and COM segment and put in one APP14."""
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    kept, at = b"", 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if not (0xE0 <= jpeg[at + 1] <= 0xEF or jpeg[at + 1] == 0xFE):
            kept += jpeg[at : at + length]
        at += length
    return jpeg[:2] + adobe + kept + jpeg[at:]


def kill_at_sync(n: int) -> None:
    """Have this process, a child, end as by a kill at its fsync number `n`."""
    sync, left = os.fsync, [n]

    def counted(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = counted
