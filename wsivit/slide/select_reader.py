"""Which reader opens a slide, and why: the fastest that shows the same pixels as OpenSlide."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from wsivit.errors import LimitError, SlideError, UsageError
from wsivit.io import ByteSource, LocalFile, is_url, remote_file
from wsivit.slide.backend import Backend, BlockLimitError, JpegColor, SlideFacts, UnreadableBlockError
from wsivit.slide.preflight import check_slide
from wsivit.slide.readers.image import ImageBackend
from wsivit.slide.readers.native import NativeBackend
from wsivit.slide.readers.openslide import OpenSlideBackend
from wsivit.slide.readers.tiffslide import TiffSlideBackend
from wsivit.slide.tiff_layout import Layout, UnknownLayoutError, file_version, read_layout, reread_layout

Reader: TypeAlias = Literal["auto", "native", "openslide", "tiffslide", "image"]
_Opened: TypeAlias = NativeBackend | OpenSlideBackend | TiffSlideBackend | ImageBackend

_SAME = 0.5  # mean difference in grey levels that two decoders of the same bytes may show
_SHIFTED = 8.0  # the same where OpenSlide's level-0 positions fall between the pixels of a coarser level
_ALIKE = 0.05  # relative difference in width of what should be the same level


def open_backend(
    source: ByteSource, reader: str, color: JpegColor, scene: int | str | None = None
) -> tuple[Backend, str, Layout | None]:
    """Open a slide that passed `check_slide`, in this process; return its reader, why that one, and a TIFF's layout."""
    layout: Layout | str | None
    try:
        layout = read_layout(source, color, scene)
    except UnknownLayoutError as error:
        if scene is not None:
            raise UsageError(f"{error}: --scene has nothing to choose from") from error
        layout = str(error)
    backend: _Opened
    if reader == "auto":
        backend, reason = _select_reader(source, color, layout)
    else:
        backend, reason = _open_reader(reader, source, color, layout), "asked for"
        if isinstance(backend, NativeBackend):
            other = _try_reader("openslide", source, "auto", layout)
            if isinstance(other, OpenSlideBackend):
                _merge_metadata(backend, other, layout)
    if not isinstance(layout, Layout):
        return backend, reason, None
    # What is known of the file's other pictures is known to no reader.
    ours, theirs = layout.facts, backend.facts
    # Of a slide that is not the file's first picture, other readers know the first one's scale.
    properties = {**ours.properties, **theirs.properties} if layout.first else ours.properties
    backend.facts = replace(theirs, properties=properties, scene=ours.scene, others=ours.others, warnings=ours.warnings)
    return backend, reason, layout


def reopen_backend(
    path: str, reader: str, color: JpegColor, scene: int | str | None, layout: Layout | None, facts: SlideFacts
) -> Backend:
    """Open a slide as another process opened it, without choosing again which pictures form it and who reads it."""
    if layout is not None:
        source = remote_file(path) if is_url(path) else LocalFile(Path(layout.name))
        if file_version(source) == layout.version:
            backend = _open_reader(reader, source, color, reread_layout(source, color, layout))
            backend.facts = facts
            return backend
    return open_backend(check_slide(path, sys.maxsize).source, reader, color, scene)[0]


def _open_reader(reader: str, source: ByteSource, color: JpegColor, layout: Layout | str | None) -> _Opened:
    """Open with one reader and no other; `SlideError` where it cannot, or takes another picture for the slide."""
    if color != "auto" and reader in ("image", "tiffslide"):
        raise UsageError(f"jpeg_color={color!r} can be applied by the native and OpenSlide readers, not by {reader}")
    if reader in ("native", "image"):
        if isinstance(layout, str):
            raise SlideError(layout)
        return NativeBackend(source, color, layout) if reader == "native" else ImageBackend(source, layout)
    backend: OpenSlideBackend | TiffSlideBackend
    if reader == "openslide":
        if not isinstance(source, LocalFile):
            raise SlideError(f"{source.name}: OpenSlide reads local files only")
        backend = OpenSlideBackend(source.path, color)
    else:
        witness = NativeBackend(source, layout=layout) if isinstance(layout, Layout) and layout.tiled else None
        backend = TiffSlideBackend(source, witness)
    if isinstance(layout, Layout) and (problem := layout.contradicts(backend.facts)):
        backend.close()
        raise SlideError(f"{layout.name}: {backend.name} {problem}")
    return backend


def _try_reader(reader: str, source: ByteSource, color: JpegColor, layout: Layout | str | None) -> _Opened | str:
    """The reader, or why it does not open the slide."""
    try:
        return _open_reader(reader, source, color, layout)
    except (SlideError, LimitError) as error:
        return str(error)


def _select_reader(source: ByteSource, color: JpegColor, layout: Layout | str | None) -> tuple[_Opened, str]:
    """Open with the best reader of the slide, and say why it is that one."""
    native = _try_reader("native", source, color, layout)
    other = _try_reader("openslide", source, "auto", layout)
    if isinstance(native, NativeBackend):
        compression = native.tiled[0].compression
        reason = f"{'uncompressed' if compression == 'none' else compression.upper()} tiles, decoded directly; "
        if not isinstance(other, OpenSlideBackend):
            refusal = str(other).removeprefix(f"{source.name}: ")
            return native, f"{reason}OpenSlide cannot read it to compare ({refusal})"
        difference = _difference(native, other) if color == "auto" else None
        if difference is not None:
            return other, f"the native reader differs from OpenSlide ({difference})"
        _merge_metadata(native, other, layout)
        seen = "the same pixels as OpenSlide where compared" if color == "auto" else f"colours taken for {color}"
        return native, reason + seen
    if isinstance(other, OpenSlideBackend):
        backend = other if color == "auto" else _open_reader("openslide", source, color, layout)
        return backend, f"OpenSlide reads this {other.facts.format} slide; the native reader does not"
    refusals = [str(native), str(other)]
    for reader in ("image", "tiffslide"):
        fallback = _try_reader(reader, source, color, layout)
        if not isinstance(fallback, str):
            return fallback, f"{reader} reader: neither the native reader nor OpenSlide reads it"
        refusals.append(fallback)
    distinct = dict.fromkeys(refusal.removeprefix(f"{source.name}: ") for refusal in refusals)
    raise SlideError("; ".join([f"{source.name}: no reader reads it", *distinct]))


def _merge_metadata(native: NativeBackend, other: OpenSlideBackend, layout: Layout | str | None) -> None:
    """Add what OpenSlide knows besides pixels, and close it."""
    other.close()
    facts = other.facts
    if isinstance(layout, Layout) and not layout.first:
        return  # its scale and properties are those of the file's first picture
    native.facts = replace(
        native.facts,
        format=native.facts.format if native.facts.format != "generic-tiff" else facts.format,
        properties={**native.facts.properties, **facts.properties},
        associated=facts.associated or native.facts.associated,
        background=facts.background,
        bounds=facts.bounds,
    )


def _difference(native: NativeBackend, other: OpenSlideBackend) -> str | None:
    """Compare sizes and a few tiles, the heaviest of each level first; None where they agree, else what differs."""
    sizes = [(level.width, level.height) for level in other.facts.levels]
    for index, tiled in enumerate(native.tiled):
        size = tiled.size
        if size not in sizes:
            if index == 0 or any(abs(size[0] / width - 1) < _ALIKE for width, _ in sizes):
                return f"level {index} is {size[0]}x{size[1]} here, OpenSlide's are {sizes}"
            continue
        differences = list(_tile_differences(native, other, index, sizes.index(size)))
        readable = [difference for difference in differences if difference < math.inf]
        if differences and not readable:
            return f"level {index}: OpenSlide reads tiles that it cannot"
        if max(readable, default=0) > (_SAME if index == 0 else _SHIFTED):
            return f"level {index}: by {max(readable):.1f} grey levels on average"
    return None


def _tile_differences(native: NativeBackend, other: OpenSlideBackend, level: int, theirs: int) -> Iterator[float]:
    """Yield the mean difference in grey levels of a level's heaviest tiles; infinite where only OpenSlide reads one."""
    tiled = native.tiled[level]
    weights = np.where(tiled.counts > tiled.max_bytes, 0, tiled.counts)
    incomparable = native.holes.over_level0(level)
    if incomparable is not None and incomparable.size == len(weights):
        # There OpenSlide hides what an Aperio's coarser levels show.
        weights = np.where(incomparable.ravel(), 0, weights)
    width, height = native.block_size(level)
    for tile in np.argsort(-weights, kind="stable")[: min(3, np.count_nonzero(weights > 0))].tolist():
        row, col = divmod(tile, tiled.n_cols)
        row = row * (tiled.level.tile_height or height) // height  # a block of an NDPI is many stripes
        try:
            pixels, readable = native.block(level, col, row, 1), True
        except BlockLimitError:
            continue
        except UnreadableBlockError:
            pixels, readable = None, False
        try:
            reference = other.region(theirs, col * width, row * height, width, height)
        except UnreadableBlockError:
            continue
        if not readable:
            yield math.inf
        elif pixels is not None and reference is not None:
            pixels = pixels[: reference.shape[0], : reference.shape[1]]
            yield float(np.abs(pixels.astype(np.int16) - reference).mean())
