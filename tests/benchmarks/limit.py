"""The limit: nothing but the tissue, the decoder, the encoder and one file. What tiling a JPEG slide cannot do without.

Takes the scales that need no resampling (the slide's own, and 1/2, 1/4, 1/8 of it) and tiles that are whole numbers of
the slide's. At the slide's own scale it copies the compressed bytes, made complete JPEGs; below, libjpeg-turbo decodes
at the reduced scale, with wsivit's settings and to the same pixels. It records nothing: it is a bound to measure
against, not a tiler. With ``--backend sealed`` it also does what a store that can be verified cannot do without: a
crc32c behind each tile, a sha256 of the file, and the file on the disk before it ends.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BufferedWriter

import google_crc32c
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray
from simple import QUALITY, Job, Row, job, report, tissue_rows


class JpegLevel:
    """One level of a tiled JPEG TIFF, its tiles as complete JPEGs."""

    def __init__(self, page: tifffile.TiffPage, file: int) -> None:
        self.file, self.offsets, self.counts = file, page.dataoffsets, page.databytecounts
        self.side, self.stride = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        self.width, self.height = page.imagewidth, page.imagelength
        # APP14 says whether components are RGB (0) or YCbCr (1); without it decoders guess, and guess wrong.
        transform = b"\0" if page.photometric == tifffile.PHOTOMETRIC.RGB else b"\1"
        self.head = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + transform + (page.jpegtables or b"")[2:-2]

    def jpeg(self, column: int, row: int) -> bytes:
        index = row * self.stride + column
        return self.head + os.pread(self.file, self.counts[index], self.offsets[index])[2:]

    def picture(self, reduce: int, column: int, row: int, columns: int, rows: int) -> NDArray[np.uint8]:
        """A block of tiles, decoded at ``1 / reduce`` and joined."""
        side = self.side // reduce
        joined, tile = np.empty((rows, side, columns, side, 3), np.uint8), np.empty((side, side, 3), np.uint8)
        for y in range(rows):
            for x in range(columns):
                jpeg = self.jpeg(column + x, row + y)
                joined[y, :, x] = simplejpeg.decode_jpeg(
                    jpeg, "RGB", min_height=side, min_width=side, min_factor=reduce, buffer=tile
                )
        return joined.reshape(rows * side, columns * side, 3)


def copied(level: JpegLevel, rows: list[Row], per_side: int) -> Iterator[bytes]:
    """The compressed tiles as they are."""
    for row, columns in rows:
        for column in columns:
            for y in range(per_side):
                for x in range(per_side):
                    yield level.jpeg(column * per_side + x, row * per_side + y)


def encoded(level: JpegLevel, rows: list[Row], per_side: int, reduce: int, threads: int) -> Iterator[bytes]:
    """Tiles at a reduced scale, encoded again; a row of the slide is one thread's piece of work."""

    def encode(tissue: Row) -> list[bytes]:
        row, columns = tissue
        corners = [(column * per_side, row * per_side) for column in columns]
        pictures = (level.picture(reduce, x, y, per_side, per_side) for x, y in corners)
        return [simplejpeg.encode_jpeg(picture, QUALITY, "RGB", "444") for picture in pictures]

    with ThreadPoolExecutor(threads) as pool:
        for jpegs in pool.map(encode, rows):
            yield from jpegs


def seal(chunks: Iterator[bytes], file: BufferedWriter) -> None:
    """Write chunks with their checksums, hash the whole, and wait for the disk."""
    digest = hashlib.sha256()
    for chunk in chunks:
        checksum = google_crc32c.value(chunk).to_bytes(4, "little")
        digest.update(chunk)
        digest.update(checksum)
        file.write(chunk)
        file.write(checksum)
    file.flush()
    os.fsync(file.fileno())


def main(job: Job) -> None:
    with tifffile.TiffFile(job.slide) as tiff:
        pages = [page for page in tiff.pages if page.is_tiled]
        base, small = (JpegLevel(page, tiff.filehandle.fileno()) for page in (pages[0], pages[-1]))
        mpp = float(re.search(r"MPP = ([\d.]+)", pages[0].description)[1])
        reduce = round(job.mpp / mpp)
        per_side = job.tile_size * reduce // base.side
        if reduce not in (1, 2, 4, 8) or abs(reduce * mpp - job.mpp) > 0.01 * job.mpp:
            raise SystemExit(f"{job.mpp} is not {mpp} microns per pixel times 1, 2, 4 or 8")
        if per_side * base.side != job.tile_size * reduce:
            raise SystemExit(f"tiles of {job.tile_size} px are not whole tiles of the slide ({base.side} px)")
        overview = small.picture(4, 0, 0, small.stride, -(-small.height // small.side))
        overview = overview[: small.height // 4, : small.width // 4]
        span = base.side * per_side
        rows = tissue_rows(overview, base.width // span, base.height // span)
        chunks = copied(base, rows, per_side) if reduce == 1 else encoded(base, rows, per_side, reduce, job.workers)
        with (job.output / "tiles").open("wb", buffering=1 << 20) as file:
            if job.backend == "sealed":
                seal(chunks, file)
            else:
                file.writelines(chunks)
    report(sum(len(columns) for _, columns in rows))


if __name__ == "__main__":
    main(job())
