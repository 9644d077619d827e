"""OpenSlide as it is used by hand: processes, PIL's box filter and JPEG encoder, a tar file for each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import openslide
from simple import QUALITY, Job, Row, job, report, tissue_rows, write_tar


def main(job: Job) -> None:
    slide = openslide.OpenSlide(job.slide)
    side = round(job.tile_size * job.mpp / float(slide.properties[openslide.PROPERTY_NAME_MPP_X]))
    smallest = slide.level_count - 1
    overview = np.asarray(slide.read_region((0, 0), smallest, slide.level_dimensions[smallest]).convert("RGB"))
    rows = tissue_rows(overview, slide.dimensions[0] // side, slide.dimensions[1] // side)
    slide.close()
    with ProcessPoolExecutor(job.workers) as pool:
        shares = [rows[worker :: job.workers] for worker in range(job.workers)]
        report(sum(pool.map(partial(write, job, side), range(job.workers), shares)))


def write(job: Job, side: int, worker: int, rows: list[Row]) -> int:
    return write_tar(job.output / f"tiles-{worker}.tar", tiles(job, side, rows))


def tiles(job: Job, side: int, rows: list[Row]) -> Iterator[tuple[str, bytes]]:
    with openslide.OpenSlide(job.slide) as slide:
        for row, columns in rows:
            for column in columns:
                tile = slide.read_region((column * side, row * side), 0, (side, side)).convert("RGB")
                if side != job.tile_size:
                    tile = tile.reduce(side // job.tile_size)
                jpeg = io.BytesIO()
                tile.save(jpeg, "JPEG", quality=QUALITY, subsampling=0)
                yield f"{column}_{row}", jpeg.getvalue()


if __name__ == "__main__":
    main(job())
