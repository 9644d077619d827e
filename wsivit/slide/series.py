"""Which directories of a TIFF are one picture at several scales, and which of the pictures is the slide.

The file's own metadata decide: OME-XML, SubIFDs, NewSubfileType, and what Aperio, Hamamatsu and PerkinElmer write.
Proportions are the last resort; pixels are compared wherever they can be, so that two scenes are never joined to one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import numpy as np
import tifffile

from wsivit.errors import SlideError, UsageError
from wsivit.slide.backend import UnreadableBlockError
from wsivit.slide.level_match import fits, match, rescale
from wsivit.slide.metadata import TIFF_ERRORS, OmeImage, harmless_name, ome_images
from wsivit.slide.preflight import SUPPORTED_PIXELS, unsupported_pixels
from wsivit.slide.tiff_level import TiledLevel, tile_size

Planes: TypeAlias = list[tifffile.TiffPage]
Open: TypeAlias = Callable[[Planes, tuple[int, int], int], TiledLevel]
"""Makes the reader of one level: its planes, the size of level 0 and the level's number; `SlideError` if none can."""

_REDUCED = 1  # the bit of NewSubfileType
_NDPI_LENS, _NDPI_FOCUS = 65421, 65424
_ASIDE = re.compile(r"(slide )?(label|macro|overview|thumbnail|barcode|map)( ?image)?", re.IGNORECASE)
_QPI_TYPE = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_QPI_ASIDE = {"thumbnail": "thumbnail", "overview": "macro", "label": "label"}
_UNNAMED = "its three grey planes have no names"
_BRIGHT = 100  # grey levels: glass shows 230 and dense tissue 150, the ground of fluorescence less than 40
_LARGE_PART, _LARGE = (
    0.05,
    1 << 24,
)  # of the slide's area, and pixels: such a picture may be tissue left out


@dataclass
class Picture:
    """One picture of a file, with its levels."""

    number: int  # its place in the file, from 0
    name: str  # what the file calls it; empty if nothing
    pages: list[Planes]  # the planes of each level, finest first
    tiled: list[TiledLevel] = field(default_factory=list)  # empty where the native reader does not read it
    aside: str = ""  # what it is if no slide: "label", "macro", "thumbnail", ...
    ome: OmeImage | None = None
    problem: str = ""  # why no reader can read it
    unread: str = ""  # why the native reader does not read it
    notes: list[str] = field(default_factory=list)  # warnings for the user

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return _size(self.pages[0])

    @property
    def private(self) -> bool:
        """Whether it shows the glass's label, which may name a patient."""
        return any(word in self.aside for word in ("label", "macro", "barcode"))

    @property
    def area(self) -> int:
        """Pixels of level 0."""
        return math.prod(self.size)

    def __str__(self) -> str:
        name = harmless_name(self.name)
        what = f" {name!r}" if name else f" ({self.aside})" if self.aside else ""
        width, height = self.size
        return f"{self.number}{what}, {width}x{height}" + (f", {self.problem}" if self.problem else "")


class Series:
    """The pictures of a file.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    open_level : callable
        See `Open`.
    scene : int or str, optional
        Number or name of the picture to take; default: the largest that is a slide.

    Attributes
    ----------
    pictures : list of Picture
        In the order of the file.
    chosen : Picture
    scene : int or None
        Its number where there is a choice.

    Raises
    ------
    SlideError
        If the slide's pixels are of a kind that is not supported.
    UsageError
        If there is no such scene.
    """

    def __init__(self, tiff: tifffile.TiffFile, open_level: Open, scene: int | str | None = None) -> None:
        self._open, self._tiff = open_level, tiff
        self.pictures: list[Picture] = []
        self.notes: list[str] = []
        chain: list[tifffile.TiffPage] = [tiff.pages.first]
        with suppress(IndexError, *TIFF_ERRORS):  # up to the end, or to a page that is damaged
            while True:
                chain.append(tiff.pages[len(chain)])  # type: ignore[arg-type]
        sizes = [_size([page]) for page in chain if page.samplesperpixel == 1]
        self._grey = {size: sizes.count(size) for size in sizes}
        self._add_chain(self._add_ome(chain) if tiff.is_ome else chain, chain)
        self.chosen = self._choose(scene)
        slides = [picture for picture in self.pictures if not (picture.aside or picture.problem)]
        self.scene = self.chosen.number if scene is not None or len(slides) > 1 else None

    # --- which pictures there are

    def _add_ome(self, chain: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
        """Add the pictures that the OME-XML describes; return the directories that it does not mention."""
        try:
            images = ome_images(self._tiff.pages.first.description, len(chain))
        except ValueError as error:
            self.notes.append(str(error))
            return chain
        used: set[int] = set()
        for image in images:
            planes = _planes(image, chain)
            if not planes or used & image.directories:
                self.notes.append("its OME-XML describes a picture that the file does not hold so: it is ignored")
                continue
            # Further focal planes and times are no pictures of their own; what lies behind RGB in one directory may be.
            used |= image.directories if len(planes) == len(image.planes) else {image.planes[0] or 0}
            picture = self._add(planes, image.name, image)
            for level in _sub_directories(planes):
                if not self._add_level(level, [picture], sure=True):
                    width, height = _size(level)
                    self.notes.append(f"a level of {width}x{height} of picture {picture.number} shows something else")
        return [page for index, page in enumerate(chain) if index not in used]

    def _add_chain(self, pages: list[tifffile.TiffPage], chain: list[tifffile.TiffPage]) -> None:
        """Sort the other directories into pictures, the largest first: what fits below another is compared with it."""
        order = {id(page): index for index, page in enumerate(chain)}
        groups = [[[page], *_sub_directories([page])] for page in pages]
        levels = [(planes, order[id(group[0][0])], at > 0) for group in groups for at, planes in enumerate(group)]
        # A SubIFD before a directory of its size: it takes the place that the other must not have.
        levels.sort(key=lambda entry: (-math.prod(_size(entry[0])), not entry[2], entry[1]))
        home = {id(picture.pages[0][0]): order.get(id(picture.pages[0][0]), 0) for picture in self.pictures}
        for planes, place, is_sub_directory in levels:
            reduced = is_sub_directory or bool(planes[0].subfiletype & _REDUCED)
            aside = "" if is_sub_directory else _aside(planes[0], place, self._tiff)
            # Levels follow their picture: the last picture before this directory is the likeliest, the next after
            # the others.
            distances = [place - home[id(picture.pages[0][0])] for picture in self.pictures]
            likeliest = sorted(range(len(distances)), key=lambda i: (distances[i] < 0, abs(distances[i])))
            candidates = [self.pictures[i] for i in likeliest] if not aside else []
            sure = reduced or self._tiff.is_svs or self._tiff.is_ndpi
            if not planes[0].is_tiled and not is_sub_directory:
                candidates = []  # a thumbnail, as most programs write them
            if not self._add_level(planes, candidates, sure=sure):
                picture = self._add(planes, _name(planes[0]), None)
                picture.aside = aside
                home[id(planes[0])] = place
        # The XML's own order first, as other programs number them.
        self.pictures.sort(key=lambda picture: -1 if picture.ome else home[id(picture.pages[0][0])])
        for number, picture in enumerate(self.pictures):
            picture.number = number

    def _add_level(self, planes: Planes, pictures: Sequence[Picture], *, sure: bool) -> bool:
        """Make planes a level of the picture that they show; `sure`: the file says that they are a level of one."""
        page, likely = planes[0], None
        for picture in pictures:
            tile = tile_size(page) if page.is_tiled else (1, 1)  # strips are never padded
            taken = _size(planes) in [_size(pages) for pages in picture.pages]
            if taken or len(planes) != len(picture.pages[0]) or not fits(picture.size, _size(planes), tile):
                continue
            try:
                level = self._open(planes, picture.size, len(picture.tiled)) if picture.tiled else None
            except (SlideError, *TIFF_ERRORS):
                level = None
            agrees, factor = match(picture.tiled, level) if level is not None else (None, (0.0, 0.0))
            if agrees is None and sure and likely is None:
                likely = picture, level, factor
            if agrees:
                likely = picture, level, factor
                break
        if likely is None:
            return False
        picture, level, factor = likely
        picture.pages.append(planes)
        if level is not None:
            rescale(level, picture.size, factor)
            picture.tiled.append(level)
        return True

    def _add(self, planes: Planes, name: str, image: OmeImage | None) -> Picture:
        picture = Picture(len(self.pictures), name, [planes], ome=image)
        picture.aside = name.strip().lower() if _ASIDE.fullmatch(name.strip()) else ""
        picture.problem = _problem(planes, image, self._grey)
        if image and image.depth * image.times > 1:
            frames = f"{image.depth} focal planes" if image.depth > 1 else f"{image.times} points in time"
            picture.notes.append(f"it holds {frames}: the first is read, the others are not")
        if not picture.problem:
            try:
                picture.tiled = [self._open(planes, picture.size, 0)]
            except SlideError as error:
                picture.unread = str(error)
        self.pictures.append(picture)
        return picture

    # --- which one is the slide

    def _choose(self, scene: int | str | None) -> Picture:
        if scene is None:
            slides = [picture for picture in self.pictures if not picture.aside] or self.pictures
            chosen = max(slides, key=lambda picture: (picture.area, not picture.problem, -picture.number))
        else:
            text = str(scene).strip()
            named = [picture for picture in self.pictures if picture.name == text]
            if text.isdecimal() and len(named) != 1:
                named = self.pictures[int(text) : int(text) + 1]
            if len(named) != 1:
                every = "; ".join(map(str, self.pictures))
                raise UsageError(f"there is no picture {text!r} (or several are called so); it holds {every}")
            chosen = named[0]
            if chosen.private:
                raise UsageError(f"picture {chosen} may name a patient: it is never read")
        if chosen.problem:
            readable = [str(picture) for picture in self.pictures if not picture.problem and not picture.aside]
            hint = f"; the file also holds {'; '.join(readable)}: take one with --scene" if readable else ""
            raise SlideError(chosen.problem + hint)
        if len(chosen.pages[0]) == 3 and chosen.ome and chosen.ome.rgb is None:
            if chosen.tiled and not _is_bright(chosen.tiled[-1]):
                raise SlideError(f"{_UNNAMED}, and on dark ground as fluorescence has them: not supported")
            chosen.notes.append(f"{_UNNAMED}: they are taken for red, green and blue")
        return chosen

    def warnings(self) -> tuple[str, ...]:
        """What the user must know of the pictures that are not read."""
        least = min(_LARGE, _LARGE_PART * self.chosen.area)
        others = [picture for picture in self.pictures if picture is not self.chosen and not picture.aside]
        large = "; ".join(str(picture) for picture in others if picture.area >= least)
        hint = f"the file holds other large pictures, which are not read: {large} (--scene takes one)"
        return (*self.notes, *self.chosen.notes, *([hint] if large else []))


def _is_bright(level: TiledLevel) -> bool:
    """Whether a level shows stained tissue on lit glass, going by blocks from all over it."""
    means = []
    for row in sorted({0, level.n_rows // 2, level.n_rows - 1}):
        for col in sorted({0, level.n_cols // 2, level.n_cols - 1}):
            with suppress(UnreadableBlockError):
                block = level.block(col, row, 1)
                if block is not None:
                    left, top = level.size[0] - col * level.block_width, level.size[1] - row * level.block_height
                    means.append(block[:top, :left].mean())
    return not means or float(np.mean(means)) > _BRIGHT


def _planes(image: OmeImage, chain: Sequence[tifffile.TiffPage]) -> Planes:
    """The directories of a picture's planes; none where the file has others than the XML describes."""
    planes = [chain[plane] for plane in image.planes if plane is not None]
    if planes and image.samples == 1 and planes[0].samplesperpixel == len(image.planes):
        planes = planes[:1]  # colours that the XML counts as channels lie in one directory
    elif len(planes) < len(image.planes) or any(page.samplesperpixel != image.samples for page in planes):
        return []
    return planes if all(image.size in (None, _size([page])) for page in planes) else []


def _sub_directories(planes: Planes) -> Iterator[Planes]:
    """The SubIFDs of a picture's planes, level by level."""
    if any(page.pages is None for page in planes):
        return
    for number in count():
        try:
            pages = [page.pages[number] for page in planes]  # type: ignore[index]
        except (IndexError, *TIFF_ERRORS):
            return
        if not all(isinstance(page, tifffile.TiffPage) for page in pages):
            return
        yield pages  # type: ignore[misc]


def _size(planes: Planes) -> tuple[int, int]:
    return planes[0].imagewidth, planes[0].imagelength


def _aside(page: tifffile.TiffPage, place: int, tiff: tifffile.TiffFile) -> str:
    """What a directory is, where the file says that it is no slide and no level of one."""
    if tiff.is_ndpi:
        lens, focus = page.tags.valueof(_NDPI_LENS), page.tags.valueof(_NDPI_FOCUS)
        if lens in (-1, -2):
            return "macro" if lens == -1 else "map"
        if focus not in (None, 0):
            return "focal plane"
        return "" if page.is_tiled or not place else "level"  # small ones have no restart markers: OpenSlide reads them
    if tiff.is_svs and place and not page.is_tiled:
        lines = page.description.splitlines()
        word = lines[1].partition(" ")[0] if len(lines) > 1 else ""
        return word if word in ("label", "macro") else "thumbnail"
    if tiff.is_qpi:
        kind = _QPI_TYPE.search(page.description)
        return _QPI_ASIDE.get(kind[1].lower(), "") if kind else ""
    text = _name(page)
    if _ASIDE.fullmatch(text):
        return text.lower()
    return "thumbnail" if page.subfiletype & _REDUCED and not page.is_tiled else ""


def _name(page: tifffile.TiffPage) -> str:
    """What a directory calls itself, where that is short enough to be a name."""
    text = page.description.strip()
    return text if _ASIDE.fullmatch(text) else ""


def _problem(planes: Planes, image: OmeImage | None, grey: dict[tuple[int, int], int]) -> str:
    """Why no reader reads such pixels; empty if 8-bit RGB or grey. `grey` counts grey pictures by size."""
    page = planes[0]
    samples, color = page.samplesperpixel, int(page.photometric)
    alpha = samples != 4 or page.extrasamples[:1] in ((1,), (2,))
    if page.dtype != np.uint8 or (color, samples) not in SUPPORTED_PIXELS or not alpha:
        return unsupported_pixels(page.bitspersample, int(page.sampleformat), color, samples)
    if color != 1:
        return "" if len(planes) == 1 else f"{len(planes)} colour pictures as channels of one are not supported"
    if image is None:
        alike = grey.get(_size(planes), 1)
        problem = f"{alike} grey pictures of one size, as of fluorescence or focal planes, are not supported"
        return problem if alike > 1 else ""
    if len(planes) not in (1, 3):
        return f"{len(planes)} grey planes, as of fluorescence, are not supported, only three of red, green and blue"
    if len(planes) == 3 and image.rgb is False:
        return "3 grey planes that are not red, green and blue (fluorescence) are not supported"
    return ""
