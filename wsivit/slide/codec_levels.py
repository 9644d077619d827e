"""Levels of every compression but JPEG in one plane: tiles, strips, JPEG 2000, and colours in planes of their own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsivit.io import ByteSource
from wsivit.slide.backend import Color, Pixels, area_mean, reducible, scanned, ycbcr_to_rgb
from wsivit.slide.jpeg import check_jpeg2000
from wsivit.slide.preflight import stored_tiles
from wsivit.slide.tiff_level import BLOCK_ROWS, TiledLevel

JPEG, GREY, RGB, SEPARATE = 7, 1, 2, 2
_APERIO_YCBCR = 33003
JPEG2000 = (_APERIO_YCBCR, 33005, 34712)
CODECS = {1: "none", 5: "lzw", 8: "deflate", 32773: "packbits", 32946: "deflate", 34927: "webp", 50000: "zstd"} | {
    50001: "webp",
    **dict.fromkeys(JPEG2000, "jpeg2000"),
}
"""Compressions by TIFF's number."""


class CodecTiles(TiledLevel):
    """Tiles of every other compression, through imagecodecs; reduced by averaging."""

    def __init__(
        self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, background: Color
    ) -> None:
        self.compression = CODECS[page.compression]
        super().__init__(page, size0, source, number)
        self.page, self.background = page, background
        self.level = reducible(self.level, self.block_width, self.block_height)

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        index = row * self.n_cols + col
        stored = self.compressed(index)
        if stored is None:
            return None
        # The page undoes predictors and puts colours in order, and knows tiles at the end that are cut.
        pixels, _, _ = self.page.decode(stored, index)
        if pixels is None:
            raise ValueError("the tile is empty")
        shown = scanned(pixels[0], self.background) if pixels.shape[3] == 4 else pixels[0]
        return None if shown is None else area_mean(shown, reduce)


class StripLevel(CodecTiles):
    """A level in strips, which some writers give SubIFDs: a block is many of them, one below the other."""

    def __init__(
        self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, background: Color
    ) -> None:
        super().__init__(page, size0, source, number, background)
        self.strip_height, self.n_strips = self.block_height, self.n_rows
        self.strips = max(1, BLOCK_ROWS // self.strip_height)
        self.block_height = self.strips * self.strip_height
        self.n_rows = -(-self.n_strips // self.strips)
        self.firsts = np.arange(0, self.n_strips, self.strips)
        self.weights = np.add.reduceat(self.counts[: self.n_strips], self.firsts)
        self.level = reducible(self.level, self.block_width, self.block_height)

    def stored(self) -> NDArray[np.bool_]:
        """See `TiledLevel.stored`: a block that lacks a strip is not."""
        strips = stored_tiles(self.offsets, self.counts, self.source.size)[: self.n_strips]
        return np.logical_and.reduceat(strips, self.firsts)[:, None]

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`; one that lacks a strip is to be read from a finer level."""
        strips = range(row * self.strips, min((row + 1) * self.strips, self.n_strips))
        stored = [(strip, self.compressed(strip)) for strip in strips]
        if not any(data for _, data in stored):
            return None
        decoded = [self.page.decode(data, strip)[0] if data is not None else None for strip, data in stored]
        found = [pixels[0] for pixels in decoded if pixels is not None]
        if len(found) < len(decoded):
            raise ValueError(f"{len(decoded) - len(found)} of its {len(decoded)} strips are left out")
        pixels = np.concatenate(found)
        shown = scanned(pixels, self.background) if pixels.shape[2] == 4 else pixels
        return None if shown is None else area_mean(shown, reduce)


class Jpeg2000Tiles(CodecTiles):
    """JPEG 2000 tiles, reduced by leaving out wavelet levels.

    A wavelet's low band lies on every r-th pixel instead of in the middle of r: `Level.centred` says so.
    """

    start_marker = b"\xff\x4f\xff\x51"

    def __init__(
        self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, background: Color
    ) -> None:
        super().__init__(page, size0, source, number, background)
        self.ycbcr = page.compression == _APERIO_YCBCR
        self.wavelets = page.photometric == RGB and page.samplesperpixel == 3
        self.level = replace(self.level, centred=not self.wavelets)

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        if reduce == 1 or not self.wavelets:
            pixels = super().decode(col, row, reduce)
        else:
            stored = self.compressed(row * self.n_cols + col)
            if stored is None:
                return None
            with Image.open(io.BytesIO(stored), formats=["JPEG2000"]) as image:
                image.reduce = reduce.bit_length() - 1  # type: ignore[assignment]
                pixels = np.asarray(image)
            if pixels.ndim != 3 or pixels.shape[2] != 3:
                raise ValueError(f"JPEG 2000 of {image.mode} pixels, not RGB")
        return ycbcr_to_rgb(pixels) if self.ycbcr and pixels is not None else pixels

    def compressed(self, index: int) -> bytes | None:
        """A complete stream of the tile's size; see `TiledLevel.compressed`."""
        stored = super().compressed(index)
        if stored is not None:
            check_jpeg2000(stored, self.block_width, self.block_height)
        return stored


class _Plane(TiledLevel):
    """The tiles of one plane: those of a directory of its own, or some of those of one that holds three."""

    def __init__(
        self, page: tifffile.TiffPage, part: int, size0: tuple[int, int], source: ByteSource, number: int
    ) -> None:
        self.compression = "jpeg" if page.compression == JPEG else CODECS[page.compression]
        super().__init__(page, size0, source, number)
        self.page, tiles = page, self.n_cols * self.n_rows
        self.first = part * tiles
        self.offsets = self.offsets[self.first : self.first + tiles]
        self.counts = self.counts[self.first : self.first + tiles]
        if len(self.counts) < tiles:
            raise ValueError(f"plane {part} has no tiles")

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`; uint8 (h, w)."""
        index = row * self.n_cols + col
        stored = self.compressed(index)
        if stored is None:
            return None
        if self.page.compression == JPEG:  # tifffile would decode it to the colours that the directory names
            pixels = imagecodecs.jpeg8_decode(stored, tables=self.page.jpegtables)
        else:
            decoded, _, _ = self.page.decode(stored, index + self.first)
            if decoded is None:
                raise ValueError("the tile is empty")
            pixels = decoded[0, ..., 0]
        if pixels.shape != (self.block_height, self.block_width):
            raise ValueError(f"a plane's tile of {pixels.shape}, not of {self.block_height} x {self.block_width}")
        return area_mean(pixels, reduce)


class PlanarTiles(TiledLevel):
    """A level made of three planes, or of one that is grey; reduced by averaging."""

    def __init__(
        self, pages: Sequence[tifffile.TiffPage], size0: tuple[int, int], source: ByteSource, number: int
    ) -> None:
        split = len(pages) == 1 and pages[0].samplesperpixel == 3
        parts = [(pages[0], part) for part in range(3)] if split else [(page, 0) for page in pages]
        self.planes = [_Plane(page, part, size0, source, number) for page, part in parts]
        if len({(plane.block_width, plane.block_height, plane.size) for plane in self.planes}) > 1:
            raise ValueError("its planes differ in their tiles")
        self.compression = self.planes[0].compression
        super().__init__(pages[0], size0, source, number)
        self.counts = np.sum([plane.counts for plane in self.planes], axis=0)
        self.weights = self.counts
        self.max_bytes *= len(self.planes)
        self.level = reducible(self.level, self.block_width, self.block_height)

    def stored(self) -> NDArray[np.bool_]:
        """See `TiledLevel.stored`; a tile of which only some planes are left out is damaged, not a hole."""
        stored: NDArray[np.bool_] = np.logical_or.reduce([plane.stored() for plane in self.planes])
        return stored

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        planes = [plane.decode(col, row, reduce) for plane in self.planes]
        stored = [plane for plane in planes if plane is not None]
        if not stored:
            return None
        if len(stored) < len(planes):
            raise ValueError(f"{len(planes) - len(stored)} of its {len(planes)} colour planes are left out")
        return np.stack(stored if len(stored) == 3 else stored * 3, axis=-1)
