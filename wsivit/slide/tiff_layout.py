"""What a TIFF's directories make up: the slide, its levels, and the pictures besides it. No pixels are kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import tifffile

from wsivit.errors import SlideError, UsageError
from wsivit.io import ByteSource, LocalFile
from wsivit.slide.backend import JpegColor, OtherPicture, SlideFacts
from wsivit.slide.metadata import TIFF_ERRORS, tiff_format, tiff_properties
from wsivit.slide.open_level import open_level
from wsivit.slide.series import Planes, Series
from wsivit.slide.tiff_level import TiledLevel

# What tifffile has to say of a damaged file is in our own errors; without a handler it would go to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_Size: TypeAlias = tuple[int, int]
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GROUPED_BY_SIZE = ("generic-tiff", "aperio")  # formats of which OpenSlide and tiffslide sort pictures by their sizes


class UnknownLayoutError(SlideError):
    """A TIFF whose pictures only another reader can sort: a vendor's own format, or one that is damaged."""


@dataclass(frozen=True)
class Layout:
    """A TIFF's pictures, and which is the slide.

    Attributes
    ----------
    name : str
        The file's.
    facts : SlideFacts
        Of the slide; without levels where the native reader does not read them.
    refusal : str
        Why it does not.
    sizes, other_sizes : tuple of (int, int)
        Width and height as stored of each level of the slide, also where it has no reader, and of the other pictures.
    directories : tuple of tuple of int
        Where the directories of each level's planes lie in the file; of level 0 also where it has no reader.
    first : bool
        Whether the slide is the file's first directory, which other readers take their metadata from.
    version : tuple of int
        See `file_version`.
    end : int
        Where the file's data end; see `check_tiff`.
    tiled : list of TiledLevel
        Readers of the levels, which a copy for another process does not have.
    """

    name: str
    facts: SlideFacts
    refusal: str
    sizes: tuple[_Size, ...]
    other_sizes: tuple[_Size, ...]
    directories: tuple[tuple[int, ...], ...]
    first: bool
    version: tuple[int, int]
    end: int
    tiled: list[TiledLevel] = field(default_factory=list)

    def contradicts(self, theirs: SlideFacts) -> str:
        """Why what another reader shows is not the slide; empty where it is."""
        sizes = [(level.width, level.height) for level in theirs.levels]
        if any(tiled.compression == "none" and tiled.in_header() for tiled in self.tiled):
            return "takes the file's header for tiles that are left out"
        if len(self.directories[0]) > 1:
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
            if mine is None:
                continue
            x, y = mine.downsample_x / level.downsample_x, mine.downsample_y / level.downsample_y
            if abs(x - 1) + abs(y - 1) > 1e-6:
                return f"takes the padding of a level of {level.width}x{level.height} for a part of the slide"
        return ""


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
    try:
        with source.open() as file, tifffile.TiffFile(file) as tiff:
            if tiff.is_scn or tiff.is_bif or tiff.is_philips:
                raise UnknownLayoutError("its tiles do not simply lie side by side (a Leica, Ventana or Philips slide)")

            def open_in_file(planes: Planes, size0: _Size, number: int) -> TiledLevel:
                return open_level(planes, size0, source, number, color)

            series = Series(tiff, open_in_file, scene)
            slide, page = series.chosen, series.chosen.pages[0][0]
            others = [picture for picture in series.pictures if picture is not slide]
            properties = tiff_properties(tiff, page, slide.ome.scale if slide.ome else None)
            if tiff.is_ome and not slide.ome:
                properties["ome.problem"] = "its OME-XML does not describe this picture"
            reported = [
                OtherPicture(
                    *(other.number, other.name, other.aside or "picture", *other.size),
                    "it may name a patient" if other.private else other.problem,
                )
                for other in others
            ]
            facts = SlideFacts(
                format=tiff_format(tiff),
                levels=tuple(tiled.level for tiled in slide.tiled),
                properties=properties,
                associated=tuple(sorted({other.aside for other in others} & {"label", "macro"})),
                scene=series.scene,
                others=tuple(reported),
                warnings=series.warnings(),
            )
            return Layout(
                name=source.name,
                facts=facts,
                refusal=slide.unread,
                sizes=tuple((planes[0].imagewidth, planes[0].imagelength) for planes in slide.pages),
                other_sizes=tuple((p[0].imagewidth, p[0].imagelength) for other in others for p in other.pages),
                directories=tuple(tiled.directories for tiled in slide.tiled)
                or (tuple(plane.offset for plane in slide.pages[0]),),
                first=page.offset == tiff.pages.first.offset,
                version=file_version(source),
                end=source.size,
                tiled=slide.tiled,
            )
    except UsageError as error:  # first: it is a ValueError too, which tifffile raises of damaged files
        raise UsageError(f"{source.name}: {error}") from None
    except TIFF_ERRORS as error:
        raise UnknownLayoutError(f"{source.name}: not a TIFF that can be read: {error}") from error
    except SlideError as error:
        raise type(error)(f"{source.name}: {error}") from error


def reread_layout(source: ByteSource, color: JpegColor, layout: Layout) -> Layout:
    """Open the levels of a layout that another process found in this version of the file."""
    source.size = layout.end
    tiled: list[TiledLevel] = []
    with source.open() as file, tifffile.TiffFile(file) as tiff:
        for number, (level, offsets) in enumerate(zip(layout.facts.levels, layout.directories, strict=False)):
            planes = []
            for offset in offsets:
                tiff.filehandle.seek(offset)
                planes.append(tifffile.TiffPage(tiff, number))
            tiled.append(open_level(planes, layout.sizes[0], source, number, color))
            tiled[-1].level = level
    return replace(layout, tiled=tiled)


def file_version(source: ByteSource) -> tuple[int, int]:
    """Size of a file and when it was modified, in nanoseconds; 0 where that is not known, of a URL."""
    if not isinstance(source, LocalFile):
        return source.size, 0
    status = source.path.stat()
    return status.st_size, status.st_mtime_ns


def _by(size: _Size) -> str:
    return f"{size[0]}x{size[1]}"
