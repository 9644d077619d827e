"""fastslide: regions in threads (it is thread-safe), exact area halving, simplejpeg, tar."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import fastslide
import simplejpeg
from simple import QUALITY, Job, job, report, tissue_rows, write_tar


def main(job: Job) -> None:
    cv2.setNumThreads(0)
    slide = fastslide.FastSlide.from_file_path(job.slide)
    side = round(job.tile_size * job.mpp / slide.mpp[0])
    smallest = slide.level_count - 1
    overview = slide.read_region((0, 0), smallest, slide.level_dimensions[smallest]).numpy()
    rows = tissue_rows(overview, slide.dimensions[0] // side, slide.dimensions[1] // side)

    def make(place: tuple[int, int]) -> tuple[str, bytes]:
        column, row = place
        pixels = slide.read_region((column * side, row * side), 0, (side, side)).numpy()
        if side != job.tile_size:
            pixels = cv2.resize(pixels, (job.tile_size, job.tile_size), interpolation=cv2.INTER_AREA)
        return f"{column}_{row}", simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "444")

    places = [(column, row) for row, columns in rows for column in columns]
    with ThreadPoolExecutor(job.workers) as pool:
        report(write_tar(job.output / "tiles.tar", pool.map(make, places)))


if __name__ == "__main__":
    main(job())
