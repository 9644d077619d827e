"""Choosing the reader for a slide, and saying why."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np

from wsivit.errors import LimitError, SlideError, UsageError
from wsivit.io import ByteSource, LocalFile, local_path
from wsivit.slide.backend import Backend, BlockLimitError, JpegColor, UnreadableBlockError
from wsivit.slide.dicom import series_path
from wsivit.slide.info import SlideInfo
from wsivit.slide.preflight import MAX_PIXELS, check_slide
from wsivit.slide.readers.image import ImageBackend
from wsivit.slide.readers.isolated import IsolatedBackend
from wsivit.slide.readers.native import NativeBackend
from wsivit.slide.readers.openslide import OpenSlideBackend
from wsivit.slide.readers.tiffslide import TiffSlideBackend
from wsivit.slide.slide import Slide
from wsivit.slide.tiff_layout import Layout, UnknownLayoutError, read_layout
from wsivit.slide.tiff_validation import check_pixels

_Opened: TypeAlias = NativeBackend | OpenSlideBackend | TiffSlideBackend | ImageBackend
_B = TypeVar("_B", bound=_Opened)
Reader: TypeAlias = Literal["auto", "native", "openslide", "tiffslide", "image"]

_SAME = 0.5  # mean difference in grey levels that two decoders of the same bytes may show
_ALIKE = 0.05  # widths of what should be the same level
_SHIFTED = 8.0  # and where OpenSlide's level-0 positions fall between the pixels of a coarser level


def open_slide(
    path: str | os.PathLike[str],
    *,
    reader: Reader = "auto",
    mpp: float | None = None,
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path : str or path-like
        A slide file, a folder with one DICOM series (or any file of it, or its DICOMDIR), or any URL that fsspec knows
        (``s3://…``, ``https://…``).
    reader : {"auto", "native", "openslide", "tiffslide", "image"}, optional
        ``"auto"`` takes the fastest that reads the slide rightly and says why in `Slide.reader_reason`; another
        choice is never silently replaced.
    mpp : float, optional
        Microns per level-0 pixel, instead of what the slide says or because it says nothing.
    jpeg_color : {"auto", "rgb", "ycbcr"}, optional
        What JPEG tiles hold, for a slide that is labelled wrongly (its glass is magenta or salmon); ``"auto"``
        believes the slide.
    scene : int or str, optional
        Which picture of a file that holds several, by its number (from 0, as `info` lists them) or its name; default:
        the largest that is a slide.
    max_pixels : int, optional
        Refuse a slide of more pixels than this at its finest level.
    subprocess : bool, optional
        Decode in a process of its own, with a limit on time (60 s a block) and memory (4 GiB), so that a slide on
        which native code crashes or hangs takes nothing along. Done unasked where the slide's structure is odd.

    Returns
    -------
    Slide

    Raises
    ------
    SlideNotFoundError
        If there is nothing at `path`.
    SlideError
        If no reader (or not the one asked for) reads it; the text says what each found.
    LimitError
        If it has more than `max_pixels` pixels.
    UsageError
        If the reader is unknown, `jpeg_color` cannot be applied by it, there is no such scene, or a folder holds
        several DICOM series.
    """
    if reader not in get_args(Reader):
        raise UsageError(f"reader must be one of {', '.join(get_args(Reader))}, not {reader!r}")
    if jpeg_color not in get_args(JpegColor):
        raise UsageError(f"jpeg_color must be one of {', '.join(get_args(JpegColor))}, not {jpeg_color!r}")
    path = series_path(local_path(path))
    source, anomalies = check_slide(path, max_pixels)
    backend: Backend
    if subprocess or (anomalies and isinstance(source, LocalFile)):
        backend = IsolatedBackend(path, reader, jpeg_color, max_pixels, scene)
        reason = f"{backend.reason}; in a process of its own: {anomalies[0] if anomalies else 'asked for'}"
    else:
        backend, reason = open_backend(source, reader, jpeg_color, scene)
    slide = Slide(path, backend, reason, mpp, jpeg_color)
    try:
        check_pixels(math.prod(slide.dimensions), max_pixels)
    except LimitError as error:
        slide.close()
        raise LimitError(f"{path}: {error}") from None
    return slide


def open_backend(
    source: ByteSource, reader: str, color: JpegColor, scene: int | str | None = None
) -> tuple[Backend, str]:
    """Open a slide that passed the first look, in this process, and say why with that reader."""
    layout: Layout | str | None
    try:
        layout = read_layout(source, color, scene)
    except UnknownLayoutError as error:
        if scene is not None:
            raise UsageError(f"{error}: --scene has nothing to choose from") from error
        layout = str(error)
    if reader == "auto":
        backend, reason = _select_reader(source, color, layout)
    else:
        backend, reason = _open(source, reader, color, layout), "asked for"
    if isinstance(layout, Layout):
        backend.facts = layout.complete(backend.facts)
    return backend, reason


def info(
    slide: str | os.PathLike[str],
    *,
    slide_mpp: float | None = None,
    reader: Reader = "auto",
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
    private: bool = False,
) -> SlideInfo:
    """Say what a slide is: format, size, levels, scale and where it came from, and what in it could name a patient.

    Parameters
    ----------
    slide : str or path-like
        A slide file, or a folder with one DICOM series.
    slide_mpp : float, optional
        Microns per level-0 pixel, instead of what the slide says or because it says nothing.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}, optional
        Which reader opens it.
    jpeg_color : {"auto", "rgb", "ycbcr"}, optional
        What its JPEG tiles hold, where it is labelled wrongly.
    scene : int or str, optional
        Which of the file's pictures, by number or name.
    max_pixels : int, optional
        Refuse a slide of more pixels than this.
    subprocess : bool, optional
        Decode in a process of its own, as of `open_slide`.
    private : bool, optional
        Show the values of private items too, not only their names.

    Returns
    -------
    SlideInfo
    """
    how: dict[str, Any] = {"scene": scene, "max_pixels": max_pixels, "subprocess": subprocess}
    with open_slide(slide, reader=reader, mpp=slide_mpp, jpeg_color=jpeg_color, **how) as opened:
        return opened.info(private)


def reopen(path: str, open_options: dict[str, Any], reason: str, threads: int | None, isolated: bool) -> Slide:
    """Open a slide as it was opened before, in another process; its reader was chosen and checked then."""
    reader, color, scene = open_options["reader"], open_options["jpeg_color"], open_options.get("scene")
    backend: Backend
    if isolated:
        backend = IsolatedBackend(path, reader, color, sys.maxsize, scene)
    else:
        source = check_slide(path, sys.maxsize).source
        backend, _ = open_backend(source, reader, color, scene)
    slide = Slide(path, backend, reason, open_options["mpp"], color)
    slide.threads = threads
    return slide


def _open(source: ByteSource, reader: str, color: JpegColor, layout: Layout | str | None) -> _Opened:
    """Open with one reader and no other."""
    if reader == "native":
        native = _open_native(source, color, layout)
        other = _try(partial(_open_openslide, source, "auto", layout))
        if isinstance(other, OpenSlideBackend):
            _merge_metadata(native, other, layout)
        return native
    if reader == "openslide":
        return _open_openslide(source, color, layout)
    if color != "auto":
        raise UsageError(f"jpeg_color={color!r} can be applied by the native and OpenSlide readers, not by {reader}")
    if reader == "image":
        if isinstance(layout, str):
            raise SlideError(layout)
        return ImageBackend(source, layout)
    witness = NativeBackend(source, found=layout) if isinstance(layout, Layout) and layout.tiled else None
    return _the_slide(TiffSlideBackend(source, witness), layout)


def _open_openslide(source: ByteSource, color: JpegColor, layout: Layout | str | None) -> OpenSlideBackend:
    if not isinstance(source, LocalFile):
        raise SlideError(f"{source.name}: OpenSlide reads local files only")
    return _the_slide(OpenSlideBackend(source.path, color), layout)


def _the_slide(backend: _B, layout: Layout | str | None) -> _B:
    """The reader, if it shows the slide and no other picture of the file."""
    if isinstance(layout, Layout) and (why := layout.contradicts(backend.facts)):
        backend.close()
        raise SlideError(f"{layout.name}: {backend.name} {why}")
    return backend


def _select_reader(source: ByteSource, color: JpegColor, layout: Layout | str | None) -> tuple[_Opened, str]:
    """Open with the reader that reads the slide best, and say why it is that one."""
    native = _try(partial(_open_native, source, color, layout))
    other = _try(partial(_open_openslide, source, "auto", layout))
    if isinstance(native, NativeBackend):
        kind = native.tiled[0].compression
        reason = f"{'uncompressed' if kind == 'none' else kind.upper()} tiles, decoded directly; "
        if not isinstance(other, OpenSlideBackend):
            return native, reason + f"OpenSlide cannot read it to compare ({other.removeprefix(f'{source.name}: ')})"
        difference = compare(native, other) if color == "auto" else None
        if difference is None:
            _merge_metadata(native, other, layout)
            seen = "the same pixels as OpenSlide where compared" if color == "auto" else f"colours taken for {color}"
            return native, reason + seen
        return other, f"the native reader differs from OpenSlide ({difference})"
    if isinstance(other, OpenSlideBackend):
        backend = other if color == "auto" else _open_openslide(source, color, layout)
        return backend, f"OpenSlide reads this {other.facts.format} slide; the native reader does not"
    return _select_fallback_reader(source, color, layout, [str(native), str(other)])


def _open_native(source: ByteSource, color: JpegColor, layout: Layout | str | None) -> NativeBackend:
    if isinstance(layout, str):
        raise SlideError(layout)
    return NativeBackend(source, color, found=layout)


def _select_fallback_reader(
    source: ByteSource, color: JpegColor, layout: Layout | str | None, refusals: list[str]
) -> tuple[_Opened, str]:
    for reader in ("image", "tiffslide"):
        backend = _try(partial(_open, source, reader, color, layout))
        if not isinstance(backend, str):
            return backend, f"{reader} reader: neither the native reader nor OpenSlide reads it"
        refusals.append(backend)
    found = dict.fromkeys(refusal.removeprefix(f"{source.name}: ") for refusal in refusals)
    raise SlideError("; ".join([f"{source.name}: no reader reads it", *found]))


def _try(open_it: Callable[[], _B]) -> _B | str:
    """The reader that opened, or what it said."""
    try:
        return open_it()
    except (SlideError, LimitError) as error:
        return str(error)


def _merge_metadata(native: NativeBackend, other: OpenSlideBackend, layout: Layout | str | None) -> None:
    """Take over what OpenSlide knows besides pixels, and close it."""
    other.close()
    facts = other.facts
    if isinstance(layout, Layout) and not layout.first:
        return  # what it says of scale and source is of the file's first picture
    native.facts = replace(
        native.facts,
        format=native.facts.format if native.facts.format != "generic-tiff" else facts.format,
        properties={**native.facts.properties, **facts.properties},
        associated=facts.associated or native.facts.associated,
        background=facts.background,
        bounds=facts.bounds,
    )


def compare(native: NativeBackend, other: OpenSlideBackend) -> str | None:
    """Compare sizes and a few tiles, the heaviest of each level first; None where they agree, else what differs."""
    sizes = [(level.width, level.height) for level in other.facts.levels]
    for index, tiled in enumerate(native.tiled):
        size = tiled.size
        if size not in sizes:
            if index == 0 or any(abs(size[0] / width - 1) < _ALIKE for width, _ in sizes):
                return f"level {index} is {size[0]}x{size[1]} here, OpenSlide's are {sizes}"
            continue
        differences = _differences(native, other, (index, sizes.index(size)))
        seen = [difference for difference in differences if difference < math.inf]
        if differences and not seen:
            return f"level {index}: OpenSlide reads tiles that it cannot"
        if max(seen, default=0) > (_SAME if index == 0 else _SHIFTED):
            return f"level {index}: by {max(seen):.1f} grey levels on average"
    return None


def _differences(native: NativeBackend, other: OpenSlideBackend, levels: tuple[int, int]) -> list[float]:
    """Differences of the heaviest tiles of a level."""
    tiled = native.tiled[levels[0]]
    found = []
    readable = np.where(tiled.counts > tiled.most, 0, tiled.counts)
    incomparable = native.holes.over_level0(levels[0])
    if incomparable is not None and incomparable.size == len(readable):
        # There OpenSlide hides what an Aperio's coarser levels show.
        readable = np.where(incomparable.ravel(), 0, readable)
    for tile in np.argsort(-readable, kind="stable")[: min(3, np.count_nonzero(readable > 0))].tolist():
        row, col = divmod(tile, tiled.n_cols)
        row = row * (tiled.level.tile_height or tiled.block_height) // tiled.block_height
        found.append(_tile_difference(native, other, levels, (col, row)))
    return [difference for difference in found if difference is not None]


def _tile_difference(
    native: NativeBackend, other: OpenSlideBackend, levels: tuple[int, int], place: tuple[int, int]
) -> float | None:
    """Mean difference of one tile in grey levels; infinite where only OpenSlide reads it, None where it does not."""
    width, height = native.block_size(levels[0])
    col, row = place
    readable = True
    try:
        mine = native.block(levels[0], col, row, 1)
    except BlockLimitError:
        return None
    except UnreadableBlockError:
        readable = False
    try:
        theirs = other.region(levels[1], col * width, row * height, width, height)
    except UnreadableBlockError:
        return None
    if not readable:
        return math.inf
    if mine is None or theirs is None:
        return None
    mine = mine[: theirs.shape[0], : theirs.shape[1]]
    return float(np.abs(mine.astype(np.int16) - theirs).mean())
