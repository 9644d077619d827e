"""What the drivers of the tiling benchmark share, so that each shows only its reader: arguments, mask, writer, report.

Needs numpy and the standard library alone, because it runs in the environments of the peers.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

MIN_TISSUE = 0.5
QUALITY = 90

Row: TypeAlias = tuple[int, list[int]]
"""A row of the grid and its columns that hold tissue."""


@dataclass(frozen=True)
class Job:
    """One slide to be tiled: at which scale, into which folder, with how many workers."""

    slide: str
    output: Path
    mpp: float
    tile_size: int
    workers: int
    backend: str


def job() -> Job:
    """Read the arguments that every driver takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("slide")
    parser.add_argument("output", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tile-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", default="")
    return Job(**vars(parser.parse_args()))


def tissue_rows(picture: NDArray[np.uint8], columns: int, rows: int) -> list[Row]:
    """Find the tiles that are at least half tissue, row by row.

    `picture` shows what `columns` x `rows` tiles cover; tissue is where the saturation is above Otsu's threshold.
    """
    step = max(1, min(picture.shape[0] // rows, picture.shape[1] // columns) // 8)  # 8 pixels across a tile will do
    picture = picture[::step, ::step]
    saturation = picture.max(axis=2) - picture.min(axis=2)
    total = np.pad((saturation > otsu(saturation)).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    y = np.linspace(0, picture.shape[0], rows + 1).round().astype(int)
    x = np.linspace(0, picture.shape[1], columns + 1).round().astype(int)
    covered = np.diff(np.diff(total[np.ix_(y, x)], axis=0), axis=1)
    keep = covered >= MIN_TISSUE * np.outer(np.diff(y), np.diff(x))
    return [(row, np.flatnonzero(keep[row]).tolist()) for row in range(rows) if keep[row].any()]


def otsu(values: NDArray[np.uint8]) -> int:
    """Otsu's threshold of 8-bit values: the one that parts them into two classes furthest from each other."""
    count = np.bincount(values.ravel(), minlength=256).astype(float)
    below, mass = count.cumsum(), (count * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return int(np.nanargmax(between))


def write_tar(path: Path, tiles: Iterable[tuple[str, bytes]]) -> int:
    """Write named JPEGs into one tar file; returns how many."""
    count = 0
    with tarfile.open(path, "w") as tar:
        for name, jpeg in tiles:
            member = tarfile.TarInfo(f"{name}.jpg")
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))
            count += 1
    return count


def report(tiles: int, note: str = "") -> None:
    """Tell the benchmark how many tiles were written, and what a reader of the table should know."""
    sys.stdout.write(json.dumps({"tiles": tiles, "note": note}) + "\n")
