"""What all readers share: their protocol, what they know of a slide, and what stands for a tile without pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.errors import SlideError
from wsivit.slide.read_plan import Level

Pixels: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = tuple[int, int, int]
JpegColor: TypeAlias = Literal["auto", "rgb", "ycbcr"]

WHITE: Color = (255, 255, 255)


@dataclass(frozen=True)
class TileFailure:
    """Stands for a tile that has no pixels.

    Attributes
    ----------
    reason : str
        What is wrong, and with which native tile.
    missing : bool
        Nothing is wrong: the scanner left everything out there.
    """

    reason: str
    missing: bool = False


MISSING = TileFailure("never scanned: transparent, or left out of the file", missing=True)


class UnreadableBlockError(SlideError):
    """One block of a slide cannot be read; others may be."""


class BlockLimitError(UnreadableBlockError):
    """A block that would take more memory or time than its pixels can need: no reader should try."""


@dataclass(frozen=True)
class OtherPicture:
    """A picture of the file that is not read.

    Attributes
    ----------
    number : int
        What ``--scene`` takes.
    name : str
        What the file calls it; empty if nothing.
    kind : str
        ``"label"``, ``"macro"``, ``"thumbnail"``, ...; ``"picture"`` where it could be a slide.
    width, height : int
    problem : str
        Why it cannot be read; empty if it can.
    """

    number: int
    name: str
    kind: str
    width: int
    height: int
    problem: str = ""


@dataclass(frozen=True)
class SlideFacts:
    """What a reader knows of a slide besides its pixels.

    Attributes
    ----------
    format : str
        ``"aperio"``, ``"generic-tiff"``, ``"dicom"``, ...
    levels : tuple of Level
        Finest first; level 0 has downsample 1.
    properties : mapping of str to str
        Metadata, named as OpenSlide names it, and ``tiff.*``, ``ome.*`` besides.
    associated : tuple of str
        Names of images in the file besides the pyramid: label, macro, thumbnail.
    background : tuple of int
        Colour of what was not scanned.
    bounds : tuple of int or None
        ``x, y, width, height`` of the region that is not empty, in level-0 pixels.
    scene : int or None
        Number of the picture that is read, where the file holds several that could be the slide.
    others : tuple of OtherPicture
        The file's other pictures, which are not read.
    warnings : tuple of str
        What the user must know of them and of the file's structure.
    """

    format: str
    levels: tuple[Level, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    associated: tuple[str, ...] = ()
    background: Color = WHITE
    bounds: tuple[int, int, int, int] | None = None
    scene: int | None = None
    others: tuple[OtherPicture, ...] = ()
    warnings: tuple[str, ...] = ()


class TileMask(NamedTuple):
    """Some of a level's native tiles: their size in its pixels, and which of them, bool (rows, columns)."""

    width: int
    height: int
    where: NDArray[np.bool_]


class Backend(Protocol):
    """A reader: hands out a slide as blocks, the units in which it decodes.

    Blocks of a level lie edge to edge from its top-left corner. Methods may be called from several threads and,
    after a fork, from several processes.
    """

    @property
    def name(self) -> str:
        """``"native"``, ``"openslide"``, ``"tiffslide"`` or ``"image"``."""

    @property
    def facts(self) -> SlideFacts:
        """What is known of the slide."""

    def block_size(self, level: int) -> tuple[int, int]:
        """Width and height of the level's blocks, in its pixels."""

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """Decode one block at ``1 / reduce``: uint8 (h, w, 3), cut or not at the level's end; None where it is blank.

        Raises
        ------
        UnreadableBlockError
            If its pixels cannot be read.
        """

    def filled(self, level: int) -> TileMask | None:
        """Which native tiles the file leaves out at this level and a finer one fills; None if none."""

    def close(self) -> None:
        """Close files of this process; reading afterwards opens them again."""


def scanned(rgba: Pixels, background: Color) -> Pixels | None:
    """Lay RGBA (h, w, 4) over a colour; None where all of it is transparent."""
    return over_background(rgba, background) if rgba[..., 3].any() else None


def over_background(rgba: Pixels, background: Color) -> Pixels:
    """Lay RGBA (h, w, 4) over a colour; RGB (h, w, 3)."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.uint32)  # sums reach 255 * 255
    mixed = rgba[..., :3] * weight + np.array(background, np.uint32) * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)


REDUCTIONS = (1, 2, 4, 8)
# JFIF's factors; Cb and Cr are stored with 128 added.
_RED, _GREEN, _BLUE = 1.402, (-0.344136, -0.714136), 1.772
_YCBCR_TO_RGB = (
    *(1, 0, _RED, -128 * _RED),
    *(1, *_GREEN, -128 * sum(_GREEN)),
    *(1, _BLUE, 0, -128 * _BLUE),
)


def block_size(tile_width: int | None, tile_height: int | None) -> tuple[int, int]:
    """Width and height of blocks for a reader of regions: the file's own tiles where sensible, else 256 x 256."""
    width, height = tile_width or 0, tile_height or 0
    # Slivers, such as NDPI's stripes of 8 rows, cost a call each; huge tiles cost memory.
    return (width, height) if 128 <= min(width, height) <= max(width, height) <= 1024 else (256, 256)


def reducible(level: Level, width: int, height: int) -> Level:
    """The level, with the fractions at which its blocks of that size still lie edge to edge."""
    return replace(level, reductions=tuple(r for r in REDUCTIONS if width % r == height % r == 0))


def region_level(size0: tuple[int, int], size: tuple[int, int], tile: Sequence[str | None]) -> Level:
    """A level of a reader of regions, from the sizes and the tile's sides that it states."""
    tile_width, tile_height = (int(side) if side else None for side in tile)
    level = Level(*size, size0[0] / size[0], size0[1] / size[1], tile_width, tile_height)
    return reducible(level, *block_size(tile_width, tile_height))


def area_mean(pixels: Pixels, reduce: int) -> Pixels:
    """Average squares of ``reduce`` pixels, for readers whose decoder cannot; incomplete squares at the end too."""
    return pixels if reduce == 1 else np.asarray(Image.fromarray(pixels).reduce(reduce))


def ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """Convert what a decoder handed out as stored (JPEG's YCbCr, full range); rounded, where Pillow's own truncates."""
    return np.asarray(Image.fromarray(pixels).convert("RGB", _YCBCR_TO_RGB))
