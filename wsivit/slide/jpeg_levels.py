"""Levels of JPEG tiles, and of NDPI's one JPEG in stripes, decoded by libjpeg-turbo; reduced in the DCT domain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsivit.io import ByteSource
from wsivit.slide.backend import Pixels, reducible
from wsivit.slide.jpeg import SOI, Normaliser, SplitJpeg, join_stripes
from wsivit.slide.preflight import stored_tiles
from wsivit.slide.tiff_level import BLOCK_ROWS, TiledLevel


class JpegTiles(TiledLevel):
    """JPEG tiles, reduced in the DCT domain."""

    compression = "jpeg"
    start_marker = SOI

    def __init__(
        self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, rgb: bool
    ) -> None:
        super().__init__(page, size0, source, number)
        self.normalise = Normaliser(page.jpegtables, rgb, self.block_width, self.block_height)
        self.level = reducible(self.level, self.block_width, self.block_height)

    def stream(self, col: int, row: int) -> bytes | None:
        """One tile as a complete JPEG and no more; None where it is blank; `ValueError`, `OSError` if it is damaged."""
        stored = self.compressed(row * self.n_cols + col)
        return None if stored is None else self.normalise.alone(stored)

    def runs(self, col: NDArray[np.int64], row: NDArray[np.int64], size: int) -> Iterator[list[SplitJpeg] | None]:
        """Tiles as `stream` gives them, `size` at a time; None where one is blank, damaged or unlike the others."""
        inside = (col < self.n_cols) & (row < self.n_rows)
        index = np.where(inside, row * self.n_cols + col, 0)
        starts, counts = self.offsets[index], self.counts[index]
        stops = starts + counts
        normal = inside & stored_tiles(starts, counts, self.source.size) & (counts <= self.max_bytes)
        is_normal = normal.tolist()  # numpy is slow on short runs
        extents = list(zip(starts.tolist(), stops.tolist(), strict=True))
        for first in range(0, len(index), size):
            run = slice(first, first + size)
            yield self._run(extents[run]) if all(is_normal[run]) else None

    def _run(self, extents: list[tuple[int, int]]) -> list[SplitJpeg] | None:
        """Read tiles ``[start, stop)``; those that lie directly behind each other in the file at once."""
        tiles: dict[tuple[int, int], SplitJpeg] = {}
        ordered = sorted(set(extents))
        ends = [i for i in range(1, len(ordered)) if ordered[i][0] != ordered[i - 1][1]]
        try:
            for first, last in zip([0, *ends], [*ends, len(ordered)], strict=True):
                group = ordered[first:last]
                begin = group[0][0]
                data = self.source.read(begin, group[-1][1] - begin)
                streams = self.normalise.all_alone(data, [(start - begin, stop - begin) for start, stop in group])
                if streams is None:
                    return None
                tiles |= zip(group, streams, strict=True)
        except (ValueError, OSError):
            return None
        return [tiles[extent] for extent in extents]

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        stored = self.compressed(row * self.n_cols + col)
        if stored is None:
            return None
        return decode_jpeg(self.normalise(stored), self.block_width, self.block_height, reduce)


class NdpiStripeLevel(TiledLevel):
    """NDPI: one JPEG per level, cut at its restart markers into stripes of 8 rows; a block is many of them, joined."""

    compression = "jpeg"

    def __init__(
        self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, rgb: bool
    ) -> None:
        super().__init__(page, size0, source, number)
        self.n_stripes, self.stripe_height = self.n_rows, self.block_height
        self.stripes = max(1, BLOCK_ROWS // self.stripe_height)
        self.block_height = self.stripes * self.stripe_height
        self.n_rows = -(-self.n_stripes // self.stripes)
        self.weights = None
        self.header = Normaliser(None, rgb, page.tilewidth, page.tilelength).header(page.jpegheader or b"")
        self.level = reducible(self.level, self.block_width, self.block_height)

    def stored(self) -> NDArray[np.bool_]:
        """See `TiledLevel.stored`: a block that lacks a stripe is not."""
        stripes = stored_tiles(self.offsets, self.counts, self.source.size)[: self.n_cols * self.n_stripes]
        firsts = np.arange(0, self.n_stripes, self.stripes)
        return np.logical_and.reduceat(stripes.reshape(self.n_stripes, self.n_cols), firsts, axis=0)

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        rows = range(row * self.stripes, min((row + 1) * self.stripes, self.n_stripes))
        stored = [self.compressed(stripe * self.n_cols + col) for stripe in rows]
        if not any(stored):
            return None
        height = len(rows) * self.stripe_height
        return decode_jpeg(join_stripes(self.header, stored, height), self.block_width, height, reduce)


def decode_jpeg(stream: bytes, width: int, height: int, reduce: int) -> Pixels:
    """Decode at ``1 / reduce``; `ValueError` for anything that libjpeg warns of, but for stray bytes at the end."""
    size = {"min_width": width // reduce, "min_height": height // reduce, "min_factor": reduce}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(stream, "RGB", **size)
    except ValueError as error:
        if "extraneous bytes before marker 0xd9" not in str(error):
            raise
        pixels = simplejpeg.decode_jpeg(stream, "RGB", strict=False, **size)
    return pixels
