"""Levels whose colours lie apart: planes of one directory or of three, and grey pictures of one."""

from __future__ import annotations

from collections.abc import Sequence

import imagecodecs
import numpy as np
import tifffile

from wsivit.io import ByteSource
from wsivit.slide.backend import Pixels, area_mean, reducible
from wsivit.slide.tiff_level import CODECS, JPEG, TiledLevel

_RGB, _GREY = 2, 1
_SEPARATE = 2


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
        first = self.planes[0]
        if any(
            (p.block_width, p.block_height, p.size) != (first.block_width, first.block_height, first.size)
            for p in self.planes
        ):
            raise ValueError("its planes differ in their tiles")
        self.compression = first.compression
        super().__init__(pages[0], size0, source, number)
        self.counts = np.sum([plane.counts for plane in self.planes], axis=0)
        self.most *= len(self.planes)
        self.level = reducible(self.level, self.block_width, self.block_height)

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        planes = [plane.decode(col, row, reduce) for plane in self.planes]
        there = [plane for plane in planes if plane is not None]
        if not there:
            return None
        if len(there) < len(planes):
            raise ValueError(f"{len(planes) - len(there)} of its {len(planes)} colour planes are left out")
        return np.stack(there if len(there) == 3 else there * 3, axis=-1)


def is_planar(pages: Sequence[tifffile.TiffPage]) -> bool:
    """Whether `PlanarTiles` reads a level: three grey planes, three planes of one directory, or one grey plane."""
    page = pages[0]
    grey = all((other.photometric, other.samplesperpixel) == (_GREY, 1) for other in pages)
    separate = (page.photometric, page.samplesperpixel, page.planarconfig) == (_RGB, 3, _SEPARATE)
    known = all(other.compression == JPEG or other.compression in CODECS for other in pages)
    return known and ((grey and len(pages) in (1, 3)) or (separate and len(pages) == 1))
