"""TRIDENT's read loop: its ``WSIPatcher`` over OpenSlide, rebuilt from its calls because it is not on PyPI.

Per tile: ``read_region(...).convert("RGB")``, ``np.array``, ``cv2.resize`` (bilinear, at every scale), which is
``WSIPatcher.get_tile_xy``; plain processes stand for its data loader's. TRIDENT feeds an encoder and keeps no pixels;
here simplejpeg and tar keep them, as for the other readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cv2
import numpy as np
import openslide
import simplejpeg
from simple import QUALITY, Job, Row, job, report, tissue_rows, write_tar


def main(job: Job) -> None:
    slide = openslide.OpenSlide(job.slide)
    downsample = job.mpp / float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
    side = round(job.tile_size * downsample)
    smallest = slide.level_count - 1
    overview = np.asarray(slide.read_region((0, 0), smallest, slide.level_dimensions[smallest]).convert("RGB"))
    rows = tissue_rows(overview, slide.dimensions[0] // side, slide.dimensions[1] // side)
    slide.close()
    with ProcessPoolExecutor(job.workers) as pool:
        shares = [rows[worker :: job.workers] for worker in range(job.workers)]
        report(sum(pool.map(partial(write, job, side), range(job.workers), shares)))


def write(job: Job, side: int, worker: int, rows: list[Row]) -> int:
    cv2.setNumThreads(0)
    return write_tar(job.output / f"tiles-{worker}.tar", tiles(job, side, rows))


def tiles(job: Job, side: int, rows: list[Row]) -> Iterator[tuple[str, bytes]]:
    with openslide.OpenSlide(job.slide) as slide:
        for row, columns in rows:
            for column in columns:
                region = np.array(slide.read_region((column * side, row * side), 0, (side, side)).convert("RGB"))
                tile = np.ascontiguousarray(cv2.resize(region, (job.tile_size, job.tile_size))[:, :, :3])
                yield f"{column}_{row}", simplejpeg.encode_jpeg(tile, QUALITY, "RGB", "444")


if __name__ == "__main__":
    main(job())
