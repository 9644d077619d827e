"""microtome-wsi: whole native tiles by its ``read_batch``, exact area halving, simplejpeg, tar.

It gives tiles as they are stored, so a coarser scale is reached by averaging the pixels of each: no seams to mind.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import cv2
import microtome
import numpy as np
import simplejpeg
from simple import QUALITY, Job, Row, job, report, tissue_rows, write_tar

AT_ONCE = 32
"""Output tiles per call of ``read_batch``."""


def main(job: Job) -> None:
    cv2.setNumThreads(0)
    slide = microtome.open(job.slide)
    base, small = slide.levels[0], len(slide.levels) - 1
    reduce = round(job.mpp / slide.mpp)
    per_side = job.tile_size * reduce // base["tile_width"]
    columns, rows = (slide.dimensions[axis] // (job.tile_size * reduce) for axis in (0, 1))
    work = list(pieces(tissue_rows(overview(slide, small), columns, rows)))

    def make(piece: Row) -> list[tuple[str, bytes]]:
        row, columns = piece
        span, across = range(per_side), base["tiles_across"]
        numbers = [
            (row * per_side + y) * across + column * per_side + x for column in columns for y in span for x in span
        ]
        native = iter(slide.read_batch(0, numbers, 1))
        side, tile, jpegs = job.tile_size // per_side, np.empty((job.tile_size, job.tile_size, 3), np.uint8), []
        for column in columns:
            for y in range(0, job.tile_size, side):
                for x in range(0, job.tile_size, side):
                    pixels = next(native)
                    reduced = pixels if reduce == 1 else cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
                    tile[y : y + side, x : x + side] = reduced
            jpegs.append((f"{column}_{row}", simplejpeg.encode_jpeg(tile, QUALITY, "RGB", "444")))
        return jpegs

    with ThreadPoolExecutor(job.workers) as pool:
        tiles = chain.from_iterable(pool.map(make, work))
        report(write_tar(job.output / "tiles.tar", tiles))


def pieces(rows: list[Row]) -> Iterator[Row]:
    for row, columns in rows:
        for start in range(0, len(columns), AT_ONCE):
            yield row, columns[start : start + AT_ONCE]


def overview(slide: microtome.Slide, number: int) -> np.ndarray:
    """A whole level out of its tiles."""
    level, tiles = slide.levels[number], slide.read_batch(number)
    grid = tiles.reshape(level["tiles_down"], level["tiles_across"], *tiles.shape[1:]).swapaxes(1, 2)
    picture = grid.reshape(level["tiles_down"] * level["tile_height"], level["tiles_across"] * level["tile_width"], 3)
    return picture[: level["height"], : level["width"]]


if __name__ == "__main__":
    main(job())
