"""What a TIFF's directories make up: the slide, its levels, and the pictures besides it. No pixels are kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import tifffile

from wsivit.errors import SlideError, UsageError
from wsivit.io import ByteSource
from wsivit.slide.backend import JpegColor, OtherPicture, SlideFacts
from wsivit.slide.metadata import TIFF_ERRORS, tiff_format, tiff_properties
from wsivit.slide.planar import PlanarTiles, is_planar
from wsivit.slide.series import Picture, Planes, Series
from wsivit.slide.tiff_level import TiledLevel, tiled_level

# What tifffile has to say of a damaged file is in our own errors; without a handler it would go to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class UnknownLayoutError(SlideError):
    """A TIFF whose pictures only another reader can sort: a vendor's own format, or one that is damaged."""


_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GROUPED_BY_SIZE = ("generic-tiff", "aperio")


@dataclass(frozen=True)
class Layout:
    """A TIFF's pictures, and which is the slide.

    Attributes
    ----------
    name : str
        The file's.
    facts : SlideFacts
        Of the slide; without levels where the native reader does not read them.
    tiled : list of TiledLevel
        Readers of its levels.
    refusal : str
        Why there are none.
    sizes : tuple of (int, int)
        Width and height of each level as stored, also of those that have no reader.
    other_sizes : tuple of (int, int)
        The same of the other pictures.
    offsets : tuple of int
        Where the directories of the slide's planes lie in the file.
    first : bool
        Whether the slide is the file's first directory, which other readers take their metadata from.
    """

    name: str
    facts: SlideFacts
    tiled: list[TiledLevel]
    refusal: str
    sizes: tuple[tuple[int, int], ...]
    other_sizes: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...]
    first: bool

    def contradicts(self, theirs: SlideFacts) -> str:
        """Why what another reader shows is not the slide; empty where it is."""
        sizes = [(level.width, level.height) for level in theirs.levels]
        if len(self.offsets) > 1:
            return "shows one of its colour planes only"
        if sizes[0] != self.sizes[0]:
            return f"takes another picture of {_by(sizes[0])} for the slide of {_by(self.sizes[0])}"
        if theirs.format not in _GROUPED_BY_SIZE:
            return ""  # it reads the format's own tags
        if wrong := [size for size in sizes if size not in self.sizes]:
            return f"takes another picture of {_by(wrong[0])} for a level"
        # Of an Aperio's pictures OpenSlide takes the tiled ones only: a thumbnail in strips may have a level's size.
        if theirs.format != "aperio" and (twice := [size for size in sizes if size in self.other_sizes]):
            return f"may take another picture of {_by(twice[0])} for a level of this one"
        ours = {tiled.size: tiled.level for tiled in self.tiled}
        for level in theirs.levels:
            mine = ours.get((level.width, level.height))
            if (
                mine
                and abs(mine.downsample_x / level.downsample_x - 1) + abs(mine.downsample_y / level.downsample_y - 1)
                > 1e-6
            ):
                return f"takes the padding of a level of {level.width}x{level.height} for a part of the slide"
        return ""

    def complete(self, facts: SlideFacts) -> SlideFacts:
        """Add to what a reader knows what is known of the file's other pictures."""
        ours = self.facts
        return replace(facts, scene=ours.scene, others=ours.others, warnings=ours.warnings)


def read_layout(source: ByteSource, color: JpegColor = "auto", scene: int | str | None = None) -> Layout | None:
    """Find the slide among a file's pictures; None where the file is no TIFF.

    Raises
    ------
    UnknownLayoutError
        If it cannot be read as a TIFF, or its tiles lie in a way of the vendor's own.
    SlideError
        If its pixels are not supported.
    UsageError
        If there is no such scene.
    """
    if source.read(0, 4) not in _STARTS:
        if scene is not None:
            raise UsageError(f"{source.name}: it is no TIFF and holds one picture: --scene has nothing to choose")
        return None

    def open_level(planes: Planes, size0: tuple[int, int], number: int) -> TiledLevel:
        if not planes[0].is_tiled:
            raise SlideError("its first picture is not stored in tiles")
        if is_planar(planes):
            return PlanarTiles(planes, size0, source, number)
        return tiled_level(planes[0], size0, source, number, color)

    try:
        with source.open() as file, tifffile.TiffFile(file) as tiff:
            if tiff.is_scn or tiff.is_bif or tiff.is_philips:
                raise UnknownLayoutError("its tiles do not simply lie side by side (a Leica, Ventana or Philips slide)")
            return _layout(source.name, tiff, Series(tiff, open_level, scene))
    except UsageError as error:  # first: it is a ValueError too, which tifffile raises of damaged files
        raise UsageError(f"{source.name}: {error}") from None
    except TIFF_ERRORS as error:
        raise UnknownLayoutError(f"{source.name}: not a TIFF that can be read: {error}") from error
    except SlideError as error:
        raise type(error)(f"{source.name}: {error}") from error


def _layout(name: str, tiff: tifffile.TiffFile, series: Series) -> Layout:
    chosen = series.chosen
    others = [picture for picture in series.pictures if picture is not chosen]
    page = chosen.pages[0][0]
    properties = tiff_properties(tiff, page, chosen.ome.scale if chosen.ome else None)
    if tiff.is_ome and not chosen.ome:
        properties["ome.problem"] = "its OME-XML does not describe this picture"
    facts = SlideFacts(
        format=tiff_format(tiff),
        levels=tuple(tiled.level for tiled in chosen.tiled),
        properties=properties,
        associated=tuple(sorted({other.aside for other in others} & {"label", "macro"})),
        scene=series.scene,
        others=tuple(map(_other, others)),
        warnings=series.warnings(),
    )
    return Layout(
        name=name,
        facts=facts,
        tiled=chosen.tiled,
        refusal=chosen.unread,
        sizes=tuple((planes[0].imagewidth, planes[0].imagelength) for planes in chosen.pages),
        other_sizes=tuple((p[0].imagewidth, p[0].imagelength) for other in others for p in other.pages),
        offsets=tuple(plane.offset for plane in chosen.pages[0]),
        first=page.offset == tiff.pages.first.offset,
    )


def _other(picture: Picture) -> OtherPicture:
    kind = picture.aside or "picture"
    problem = "it may name a patient" if picture.private else picture.problem
    return OtherPicture(picture.number, picture.name, kind, *picture.size, problem)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
