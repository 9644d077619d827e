"""Which directories of a TIFF are one picture at several scales, and which of the pictures is the slide.

The file's own words decide: OME-XML, SubIFDs, NewSubfileType, and what Aperio, Hamamatsu and PerkinElmer write.
Proportions are the last resort; pixels are compared wherever they can be, so that two scenes are never taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import tifffile

from wsivit.errors import SlideError, UsageError
from wsivit.slide.backend import Pixels, UnreadableBlockError
from wsivit.slide.info import harmless_name
from wsivit.slide.level_match import fits, match, rescaled
from wsivit.slide.metadata import TIFF_ERRORS
from wsivit.slide.ome import OmeImage, ome_images
from wsivit.slide.tiff_level import TiledLevel
from wsivit.slide.tiff_validation import CHANNELS, COLOURS, KINDS

Planes: TypeAlias = list[tifffile.TiffPage]
Open: TypeAlias = Callable[[Planes, tuple[int, int], int], TiledLevel]
"""Makes the reader of one level: its planes, the size of level 0 and the level's number; `SlideError` if none can."""

_REDUCED = 1
_NDPI_LENS, _NDPI_FOCUS = 65421, 65424
_ASIDE = re.compile(r"(slide )?(label|macro|overview|thumbnail|barcode|map)( ?image)?", re.IGNORECASE)
_QPI_TYPE = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_QPI_ASIDE = {"thumbnail": "thumbnail", "overview": "macro", "label": "label"}
_PLAIN = {(2, 3), (6, 3), (2, 4), (1, 1)}
UNNAMED = "its three grey planes have no names"
_BRIGHT = 100  # grey levels: glass shows 230 and dense tissue 150, the ground of fluorescence less than 40
_LARGE_PART, _LARGE = 0.05, 1 << 24
"""A picture of so much of the slide's area, or of so many pixels, may be tissue that is left out."""


@dataclass
class Picture:
    """One picture of a file, with its levels.

    Attributes
    ----------
    number : int
        Its place in the file, from 0.
    name : str
        What the file calls it; empty if nothing.
    pages : list of list of tifffile.TiffPage
        The planes of each level, finest first.
    tiled : list of TiledLevel
        Readers of its levels; none where the native reader does not read them.
    aside : str
        What it is if no slide: ``"label"``, ``"macro"``, ``"thumbnail"``, ...
    ome : OmeImage or None
    problem : str
        Why it cannot be read by any reader; empty if it can.
    unread : str
        Why the native reader does not read it; empty if it does.
    notes : list of str
        What its reader should know.
    """

    number: int
    name: str
    pages: list[Planes]
    tiled: list[TiledLevel] = field(default_factory=list)
    aside: str = ""
    ome: OmeImage | None = None
    problem: str = ""
    unread: str = ""
    notes: list[str] = field(default_factory=list)

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
        return self.size[0] * self.size[1]

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
        chain: list[tifffile.TiffPage] = [tiff.pages.first, *readable_pages(tiff)]
        self._count_grey(chain)
        left = self._add_ome(chain) if tiff.is_ome else chain
        self._add_chain(left, chain)
        self.chosen = self._choose(scene)
        able = [picture for picture in self.pictures if not (picture.aside or picture.problem)]
        self.scene = self.chosen.number if scene is not None or len(able) > 1 else None

    # --- which pictures there are

    def _count_grey(self, chain: list[tifffile.TiffPage]) -> None:
        sizes = [_size([page]) for page in chain if page.samplesperpixel == 1]
        self._grey = {size: sizes.count(size) for size in sizes}

    def _add_ome(self, chain: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
        """Add the pictures that the OME-XML describes; return the directories of which it does not speak."""
        try:
            images = ome_images(self._tiff.pages.first.description, len(chain))
        except ValueError as error:
            self.notes.append(str(error))
            return chain
        used: set[int] = set()
        for image in images:
            found = _planes(image, chain)
            if not found or used & image.directories:
                self.notes.append("its OME-XML describes a picture that is not in the file so, and counts for nothing")
                continue
            # Further focal planes and times are no pictures of their own; what lies behind RGB in one directory may be.
            used |= image.directories if len(found) == len(image.planes) else {image.planes[0] or 0}
            picture = self._add(found, image.name, image)
            for below in _below(found):
                if not self._settle(below, [picture], sure=True):
                    self.notes.append(f"a level of {_by(below)} of picture {picture.number} shows something else")
        return [page for index, page in enumerate(chain) if index not in used]

    def _add_chain(self, pages: list[tifffile.TiffPage], chain: list[tifffile.TiffPage]) -> None:
        """Sort the other directories into pictures, the largest first: what fits below another is compared with it."""
        order = {id(page): index for index, page in enumerate(chain)}
        groups = [[[page], *_below([page])] for page in pages]
        flat = [(planes, order[id(group[0][0])], at > 0) for group in groups for at, planes in enumerate(group)]
        flat.sort(key=lambda entry: (-_area(entry[0]), entry[1]))
        home = {id(picture.pages[0][0]): order.get(id(picture.pages[0][0]), 0) for picture in self.pictures}
        for planes, place, below in flat:
            reduced = below or bool(planes[0].subfiletype & _REDUCED)
            aside = _aside(planes[0], place, self._tiff)
            others = sorted(
                (picture for picture in self.pictures if not aside),
                key=lambda picture: _nearness(home[id(picture.pages[0][0])], place),
            )
            if not self._settle(planes, others, sure=reduced or self._tiff.is_svs or self._tiff.is_ndpi):
                picture = self._add(planes, _name(planes[0]), None)
                picture.aside = aside
                home[id(planes[0])] = place
        # The XML's own order first, as other programs number them.
        self.pictures.sort(key=lambda picture: -1 if picture.ome else home[id(picture.pages[0][0])])
        for number, picture in enumerate(self.pictures):
            picture.number = number

    def _settle(self, planes: Planes, pictures: Sequence[Picture], *, sure: bool) -> bool:
        """Make planes a level of the picture that they show; `sure`: the file says that they are one of one."""
        page, likely = planes[0], None
        if not page.is_tiled:
            return False
        for picture in pictures:
            tile = page.tilewidth, page.tilelength
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
            rescaled(level, picture.size, factor)
            picture.tiled.append(level)
        return True

    def _add(self, planes: Planes, name: str, image: OmeImage | None) -> Picture:
        picture = Picture(len(self.pictures), name, [planes], ome=image)
        picture.aside = name.strip().lower() if _ASIDE.fullmatch(name.strip()) else ""
        picture.problem = _problem(planes, image, self._grey)
        if image and image.depth * image.times > 1:
            count = f"{image.depth} focal planes" if image.depth > 1 else f"{image.times} points in time"
            picture.notes.append(f"it holds {count}: the first is read, the others are not")
        if not picture.problem:
            try:
                picture.tiled = [self._open(planes, picture.size, 0)]
            except SlideError as error:
                picture.unread = str(error)
        self.pictures.append(picture)
        return picture

    # --- which one is the slide

    def _choose(self, scene: int | str | None) -> Picture:
        if scene is not None:
            chosen = self._named(scene)
        else:
            slides = [picture for picture in self.pictures if not picture.aside] or self.pictures
            chosen = max(slides, key=lambda picture: (picture.area, not picture.problem, -picture.number))
        if chosen.problem:
            able = [str(picture) for picture in self.pictures if not picture.problem and not picture.aside]
            hint = f"; the file also holds {'; '.join(able)}: take one with --scene" if able else ""
            raise SlideError(chosen.problem + hint)
        if len(chosen.pages[0]) == 3 and chosen.ome and chosen.ome.channels.rgb is None:
            if chosen.tiled and not is_bright(_sample(chosen.tiled[-1])):
                raise SlideError(f"{UNNAMED}, and on dark ground as fluorescence has them: not supported")
            chosen.notes.append(f"{UNNAMED}: they are taken for red, green and blue")
        return chosen

    def _named(self, scene: int | str) -> Picture:
        text = str(scene).strip()
        found = [picture for picture in self.pictures if picture.name == text]
        if text.isdecimal() and len(found) != 1:
            found = self.pictures[int(text) : int(text) + 1]
        if len(found) != 1:
            every = "; ".join(map(str, self.pictures))
            raise UsageError(f"there is no picture {text!r} (or several are called so); it holds {every}")
        if found[0].private:
            raise UsageError(f"picture {found[0]} may name a patient: it is never read")
        return found[0]

    def warnings(self) -> tuple[str, ...]:
        """What the user must know of the pictures that are not read."""
        large = [
            str(picture)
            for picture in self.pictures
            if picture is not self.chosen
            and not picture.aside
            and picture.area >= min(_LARGE, _LARGE_PART * self.chosen.area)
        ]
        found = [f"the file holds other large pictures, which are not read: {'; '.join(large)} (--scene takes one)"]
        return (*self.notes, *self.chosen.notes, *(found if large else ()))


def is_bright(pixels: Sequence[Pixels]) -> bool:
    """Whether pictures are of stained tissue on lit glass."""
    return not pixels or float(np.mean([part.mean() for part in pixels])) > _BRIGHT


def _sample(level: TiledLevel) -> list[Pixels]:
    """Blocks from all over a level."""
    found = []
    for row in sorted({0, level.n_rows // 2, level.n_rows - 1}):
        for col in sorted({0, level.n_cols // 2, level.n_cols - 1}):
            with suppress(UnreadableBlockError):
                block = level.block(col, row, 1)
                if block is not None:
                    left, top = level.size[0] - col * level.block_width, level.size[1] - row * level.block_height
                    found.append(block[:top, :left])
    return found


def readable_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """The pages after the first, up to one that is damaged."""
    number = 1
    while True:
        try:
            yield tiff.pages[number]  # type: ignore[misc]
        except (IndexError, *TIFF_ERRORS):
            return
        number += 1


def _planes(image: OmeImage, chain: Sequence[tifffile.TiffPage]) -> Planes:
    """The directories of a picture's planes; none where the file has others than the XML describes."""
    found = [chain[plane] for plane in image.planes if plane is not None]
    if found and image.samples == 1 and found[0].samplesperpixel == len(image.planes):
        found = found[:1]  # colours that the XML counts as channels lie in one directory
    elif len(found) < len(image.planes) or any(page.samplesperpixel != image.samples for page in found):
        return []
    return found if all(image.size in (None, _size([page])) for page in found) else []


def _by(planes: Planes) -> str:
    return f"{planes[0].imagewidth}x{planes[0].imagelength}"


def _below(planes: Planes) -> Iterator[Planes]:
    """The SubIFDs of a picture's planes, level by level."""
    number = 0
    while all(page.pages is not None for page in planes):
        try:
            pages = [page.pages[number] for page in planes]  # type: ignore[index]
        except (IndexError, *TIFF_ERRORS):
            return
        if not all(isinstance(page, tifffile.TiffPage) for page in pages):
            return
        yield pages  # type: ignore[misc]
        number += 1


def _size(planes: Planes) -> tuple[int, int]:
    return planes[0].imagewidth, planes[0].imagelength


def _area(planes: Planes) -> int:
    return planes[0].imagewidth * planes[0].imagelength


def _nearness(home: int, place: int) -> tuple[bool, int]:
    """Levels follow their picture: one that stands before comes first, the last of them before the others."""
    return home > place, abs(home - place)


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
    """Why no reader reads such pixels; empty if they are 8-bit RGB or grey."""
    page = planes[0]
    samples, color = page.samplesperpixel, int(page.photometric)
    alpha = samples != 4 or page.extrasamples[:1] in ((1,), (2,))
    if page.dtype != np.uint8 or (color, samples) not in _PLAIN or not alpha:
        kind = KINDS.get(int(page.sampleformat), " unknown")
        odd = "" if samples == CHANNELS.get(color) else f" of {samples} samples, none of them alpha,"
        name = f"{page.bitspersample}-bit{kind} {COLOURS.get(color, f'photometric {color}')}{odd}"
        return f"{name} is not supported, only 8-bit RGB and grey"
    if color != 1:
        return "" if len(planes) == 1 else f"{len(planes)} colour pictures as channels of one are not supported"
    if image is None:
        alike = grey.get(_size(planes), 1)
        words = f"{alike} grey pictures of one size, as of fluorescence or focal planes, are not supported"
        return words if alike > 1 else ""
    if len(planes) not in (1, 3):
        return f"{len(planes)} grey planes, as of fluorescence, are not supported, only three of red, green and blue"
    if len(planes) == 3 and image.channels.rgb is False:
        return "3 grey planes that are not red, green and blue (fluorescence) are not supported"
    return ""
