"""One level of a tiled TIFF: where its compressed tiles are, and how each decodes."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsivit.errors import SlideError
from wsivit.io import ByteSource
from wsivit.slide.backend import (
    WHITE,
    BlockLimitError,
    Color,
    JpegColor,
    Pixels,
    UnreadableBlockError,
    area_mean,
    reducible,
    scanned,
    ycbcr_to_rgb,
)
from wsivit.slide.jpeg import SOI, JpegLimitError, Normaliser, SplitJpeg, check_jpeg2000, join_stripes
from wsivit.slide.preflight import HEADER, max_tile_bytes, stored_tiles
from wsivit.slide.read_plan import Level

_JPEG = 7
_APERIO_YCBCR = 33003
_JPEG2000 = (_APERIO_YCBCR, 33005, 34712)
_CODECS = {1: "none", 5: "lzw", 8: "deflate", 32773: "packbits", 32946: "deflate", 34927: "webp", 50000: "zstd"} | {
    50001: "webp",
    **dict.fromkeys(_JPEG2000, "jpeg2000"),
}
_GREY, _RGB = 1, 2
_PHOTOMETRIC = {_RGB: "rgb", 6: "ycbcr"}
_SEPARATE = 2
_BLOCK_ROWS = 256  # rows of an NDPI's stripes that are decoded at once
_MAX_ZERO_LENGTHS = 64  # tiles; more are left out on purpose and not damaged
_ERRORS = (OSError, ValueError, RuntimeError, TypeError, IndexError, SyntaxError)


class TiledLevel(ABC):
    """A level as a grid of blocks that are decoded one by one.

    Attributes
    ----------
    level : Level
    size : tuple of int
        Width and height of the picture as stored: more than the level's own where it is padded to complete tiles.
    block_width, block_height : int
    n_cols, n_rows : int
    counts : ndarray of int64
        Compressed bytes of each tile, in reading order; 0 for a blank one, -1 where the index falsely says 0.
    weights : ndarray of int64 or None
        Compressed bytes of each block; None where pixels need not tell what the level is (NDPI states it).
    max_bytes : int
        A tile of more bytes is not read.
    directories : tuple of int
        Where the TIFF directories of its planes lie in the file.
    """

    compression: str
    start_marker = b""
    """What every tile begins with, where the codec has such a marker."""
    directories: tuple[int, ...] = ()

    def __init__(self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int) -> None:
        self.source, self.number = source, number
        self.size = page.imagewidth, page.imagelength
        self.block_width, self.block_height = tile_size(page)
        self.n_cols = -(-page.imagewidth // self.block_width)
        self.n_rows = -(-page.imagelength // self.block_height)
        self.offsets = np.array(page.dataoffsets, np.int64)
        self.counts = np.array(page.databytecounts, np.int64)
        self.max_bytes = max_tile_bytes(self.block_width, self.block_height)
        needed = self.n_cols * self.n_rows
        if min(len(self.offsets), len(self.counts)) < needed:
            raise SlideError(f"{len(self.offsets)} tiles are indexed where {needed} are needed")
        # A tile that begins where the index says that there is nothing: the index is damaged, unless many are left out.
        zero = (self.counts == 0) & (self.offsets > 0) & (self.offsets + len(self.start_marker) <= source.size)
        if self.start_marker and 0 < zero.sum() <= _MAX_ZERO_LENGTHS:
            zero &= ~np.isin(self.offsets, self.offsets[self.counts > 0])
            for tile in np.flatnonzero(zero).tolist():
                if source.read(self.offsets.item(tile), len(self.start_marker)) == self.start_marker:
                    self.counts[tile] = -1
        (width, height), sides = self.size, (self.block_width, self.block_height)
        self.level = Level(width, height, size0[0] / width, size0[1] / height, *sides, self.compression)
        self.weights: NDArray[np.int64] | None = self.counts

    def stored(self) -> NDArray[np.bool_]:
        """Which blocks have all their bytes in the file; (rows, columns)."""
        stored = stored_tiles(self.offsets, self.counts, self.source.size)[: self.n_cols * self.n_rows]
        return stored.reshape(self.n_rows, self.n_cols)

    def in_header(self) -> bool:
        """Whether some tiles have bytes, but their place is the file's header."""
        counts = self.counts[: len(self.offsets)]
        return bool(((counts > 0) & (self.offsets[: len(counts)] < HEADER)).any())

    def block(self, col: int, row: int, reduce: int) -> Pixels | None:
        """Decode one block at ``1 / reduce``; None where it is blank.

        Raises
        ------
        UnreadableBlockError
            With what is wrong.
        """
        try:
            return self.decode(col, row, reduce)
        except _ERRORS as error:
            reason = str(error) or type(error).__name__
            kind = BlockLimitError if isinstance(error, JpegLimitError) else UnreadableBlockError
            raise kind(f"level {self.number}, tile ({col}, {row}): {reason}") from error

    @abstractmethod
    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """`block`, raising whatever is wrong."""

    def compressed(self, index: int) -> bytes | None:
        """The stored bytes of a tile; None where there are none.

        Raises
        ------
        ValueError, OSError
            If they are not all there.
        """
        offset, count = self.offsets.item(index), self.counts.item(index)
        if count == 0:
            return None
        if count < 0:
            raise ValueError("the index says that it has no bytes, but one begins at its place")
        if offset < HEADER:
            raise ValueError(f"its place, {offset}, lies in the header of the file")
        if offset + count > self.source.size:
            raise ValueError(f"bytes {offset} to {offset + count} lie beyond the end of the file ({self.source.size})")
        if count > self.max_bytes:
            raise JpegLimitError(f"{count:,} bytes are too many for {self.block_width}x{self.block_height} pixels")
        return self.source.read(offset, count)


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
        self.stripes = max(1, _BLOCK_ROWS // self.stripe_height)
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


class CodecTiles(TiledLevel):
    """Tiles of every other compression, through imagecodecs; reduced by averaging."""

    def __init__(
        self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, background: Color
    ) -> None:
        self.compression = _CODECS[page.compression]
        super().__init__(page, size0, source, number)
        self.page, self.background = page, background
        self.level = reducible(self.level, self.block_width, self.block_height)

    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """See `TiledLevel.decode`."""
        index = row * self.n_cols + col
        stored = self.compressed(index)
        if stored is None:
            return None
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
        self.strips = max(1, _BLOCK_ROWS // self.strip_height)
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
        self.wavelets = page.photometric == _RGB and page.samplesperpixel == 3
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
        self.compression = "jpeg" if page.compression == _JPEG else _CODECS[page.compression]
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
        if self.page.compression == _JPEG:  # tifffile would decode it to the colours that the directory names
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


def is_planar(pages: Sequence[tifffile.TiffPage]) -> bool:
    """Whether `PlanarTiles` reads a level: three grey planes, three planes of one directory, or one grey plane."""
    page = pages[0]
    grey = all((other.photometric, other.samplesperpixel) == (_GREY, 1) for other in pages)
    separate = (page.photometric, page.samplesperpixel, page.planarconfig) == (_RGB, 3, _SEPARATE)
    known = all(other.compression == _JPEG or other.compression in _CODECS for other in pages)
    return known and ((grey and len(pages) in (1, 3)) or (separate and len(pages) == 1))


def tile_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Width and height of a page's tiles; a strip is a tile as wide as the page."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def strip_level(page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int) -> StripLevel:
    """Make the reader for a level in strips; `SlideError` if there is none."""
    plain = page.photometric in _PHOTOMETRIC and page.planarconfig == 1
    if page.compression not in _CODECS or page.compression in _JPEG2000 or not plain:
        raise SlideError("its strips are of another kind")
    return StripLevel(page, size0, source, number, WHITE)


def tiled_level(
    page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, color: JpegColor
) -> TiledLevel:
    """Make the reader for a page's tiles.

    Raises
    ------
    SlideError
        If there is none; the text says what its tiles are.
    """
    try:
        plain = page.photometric in _PHOTOMETRIC and page.planarconfig == 1
        if page.compression == _JPEG and plain and page.samplesperpixel == 3:
            rgb = (_PHOTOMETRIC[page.photometric] if color == "auto" else color) == "rgb"
            return (NdpiStripeLevel if page.jpegheader else JpegTiles)(page, size0, source, number, rgb)
        if page.compression in _CODECS and plain:
            kind = Jpeg2000Tiles if page.compression in _JPEG2000 else CodecTiles
            return kind(page, size0, source, number, WHITE)
    except ValueError as error:
        raise SlideError(f"its JPEG tables are damaged: {error}") from error
    names = (getattr(value, "name", value) for value in (page.compression, page.photometric, page.planarconfig))
    raise SlideError(f"its tiles are {' '.join(map(str, names))}")


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
