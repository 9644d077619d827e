"""The limit: the tissue, the decoder, the encoder and the files. What tiling a JPEG slide cannot do without.

Takes the scales that need no resampling (the slide's own, and 1/2, 1/4, 1/8 of it) and tiles that are whole numbers of
the slide's. At the slide's own scale it copies the compressed bytes, made complete JPEGs; below, libjpeg-turbo decodes
at the reduced scale. The tissue is found by wsivit's own function, or it would make other tiles; the shards are zarr's,
each chunk with the crc32c and each file with the index that the format asks for, hashed for the journal and brought to
the disk. They are the files that wsivit writes, byte for byte: it is the same work without a tool around it. It checks
nothing, records nothing else, draws no preview and cannot go on where it was killed.

``--backend bare`` also leaves out what makes a store trustworthy: checksums, hashes, waiting for the disk; and its
tissue is Otsu's threshold on the saturation, which is all that a tissue mask can cost.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import google_crc32c
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray
from simple import MIN_TISSUE, QUALITY, Job, Row, job, report, tissue_rows

from wsivit.tissue import find_tissue, tissue_fractions

SHARD = 1024  # chunks
OVERVIEW_MPP = 8.0


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


def write_bare(chunks: Iterator[bytes], folder: Path) -> None:
    """All chunks behind each other."""
    with (folder / "tiles").open("wb", buffering=1 << 20) as file:
        file.writelines(chunks)


def write_shards(chunks: Iterator[bytes], folder: Path) -> None:
    """Shards of zarr's ``sharding_indexed`` codec with crc32c; one goes to the disk while the next is made."""
    journal, on_its_way = [], list[Future[None]]()
    with ThreadPoolExecutor(1) as disk:
        for number, first in enumerate(chunks):
            path = folder / f"c.{number}.0.0.0"
            journal.append(write_shard(chain([first], islice(chunks, SHARD - 1)), path))
            on_its_way.append(disk.submit(settle, path))
        for future in on_its_way:
            future.result()
    (folder / "journal").write_text("\n".join(journal))


def write_shard(chunks: Iterator[bytes], path: Path) -> str:
    """One shard, not yet on the disk; its sha256 for the journal."""
    digest, index, offset = hashlib.sha256(), np.full((SHARD, 2), 2**64 - 1, "<u8"), 0
    with path.with_suffix(".tmp").open("wb", buffering=1 << 20) as file:
        for slot, chunk in enumerate(chunks):
            sealed = chunk + google_crc32c.value(chunk).to_bytes(4, "little")
            digest.update(sealed)
            file.write(sealed)
            index[slot] = offset, len(sealed)
            offset += len(sealed)
        tail = index.tobytes()
        tail += google_crc32c.value(tail).to_bytes(4, "little")
        digest.update(tail)
        file.write(tail)
    return digest.hexdigest()


def settle(path: Path) -> None:
    """Bring a shard to the disk, and then under its name."""
    with path.with_suffix(".tmp").open("rb") as file:
        os.fsync(file.fileno())
    path.with_suffix(".tmp").rename(path)


def found_rows(overview: NDArray[np.uint8], columns: int, rows: int) -> list[Row]:
    """The tiles that are tissue to wsivit, row by row; `overview` shows what `columns` x `rows` tiles cover."""
    mask = find_tissue(overview, OVERVIEW_MPP).mask
    row, column = np.divmod(np.arange(columns * rows), columns)
    boxes = np.stack([column, row, column + 1, row + 1], axis=1).astype(float)
    keep = (tissue_fractions(mask, boxes, (columns, rows)) >= MIN_TISSUE).reshape(rows, columns)
    return [(row, np.flatnonzero(keep[row]).tolist()) for row in range(rows) if keep[row].any()]


def main(job: Job) -> None:
    bare = job.backend == "bare"
    with tifffile.TiffFile(job.slide) as tiff:
        pages = [page for page in tiff.pages if page.is_tiled]
        base, small = (JpegLevel(page, tiff.filehandle.fileno()) for page in (pages[0], pages[-1]))
        mpp = float(re.search(r"MPP = ([\d.]+)", pages[0].description)[1])
        reduce = round(job.mpp / mpp)
        per_side = job.tile_size * reduce // base.side
        if reduce not in (1, 2, 4, 8) or abs(reduce * mpp - job.mpp) > 0.01 * job.mpp:
            raise SystemExit(f"{job.mpp} is not {mpp} microns per pixel times 1, 2, 4 or 8")
        span = base.side * per_side
        if span != job.tile_size * reduce or base.width % span or base.height % span:
            raise SystemExit(f"tiles of {job.tile_size} px are not whole tiles of the slide ({base.side} px)")
        shrink = round(OVERVIEW_MPP / mpp / (base.width / small.width))
        overview = small.picture(shrink, 0, 0, small.stride, -(-small.height // small.side))
        overview = overview[: small.height // shrink, : small.width // shrink]
        grid = base.width // span, base.height // span
        rows = tissue_rows(overview, *grid) if bare else found_rows(overview, *grid)
        chunks = copied(base, rows, per_side) if reduce == 1 else encoded(base, rows, per_side, reduce, job.workers)
        (write_bare if bare else write_shards)(chunks, job.output)
    report(sum(len(columns) for _, columns in rows))


if __name__ == "__main__":
    main(job())
