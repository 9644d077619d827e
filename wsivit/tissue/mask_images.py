"""Mask images of a person or program, with their stored values: labels, palettes, 16 bits, transparency, any size.

Pictures as viewers show them are not enough: a label 1 of 255 is black to the eye, a palette's colours say nothing of
its numbers, and Pillow stops at 179 megapixels. TIFF and PNG are therefore decoded piece by piece.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsivit.errors import LimitError, UsageError
from wsivit.io import PICTURE_ERRORS, open_picture
from wsivit.tissue.operations import BoolMask, running_max, running_min

MAX_SAMPLES = 1 << 25
"""Pixels that are kept of a mask: of larger ones every n-th. Exact areas of tiles take eight bytes for each."""
MAX_PIECE = 1 << 29
"""Pixels that may have to be decoded at once: a picture of a form that has no pieces, or a strip that is all of it."""
_PNG, _TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BAND = 1 << 22  # bytes of a PNG, and of an uncompressed TIFF, that are decoded at a time
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_LOSSY = ("JPEG", "JPEG2000", "WEBP", "APERIO", "JPEGXR", "JPEGXL", "JPEG_2000")
_LISTED = 16
_CHOOSE = "choose the values that are tissue, as in --tissue mask.png:1,2"
_ERRORS = (*PICTURE_ERRORS, RuntimeError, IndexError, KeyError, TypeError, zlib.error, struct.error)
"""What decoders raise of a damaged picture."""


@dataclass
class MaskPixels:
    """The stored values of a mask image, evenly spaced ones where it has more than `MAX_SAMPLES`.

    Attributes
    ----------
    size : (int, int)
        Width and height of the image.
    values : ndarray, (h, w, channels)
        Numbers of labels or of the palette, or grey and colour channels; what a sparse TIFF leaves out is background.
    opaque : bool ndarray (h, w), or None
        Where the picture is not transparent; None without transparency.
    palette : uint8 ndarray (n, 3), or None
    nodata : float
        The value of pixels that are left out of the file.
    white_is_zero : bool
        Whether a TIFF says that its 0 is white, so that numbers say one thing and viewers show another.
    lossy : bool
        Whether values next to an edge are not those that were drawn.
    """

    size: tuple[int, int]
    values: NDArray[Any]
    opaque: BoolMask | None = None
    palette: NDArray[np.uint8] | None = None
    nodata: float = 0
    white_is_zero: bool = False
    lossy: bool = False


def read_mask_image(
    path: Path, slide_size: tuple[int, int], labels: Sequence[int] = ()
) -> tuple[BoolMask, dict[str, Any]]:
    """Read which pixels of a mask image are tissue: all that are neither 0 (black) nor transparent.

    Parameters
    ----------
    path : Path
    slide_size : (int, int)
        Width and height of level 0; the image must have its proportions.
    labels : sequence of int, optional
        The values that are tissue, instead of everything but 0.

    Returns
    -------
    mask : bool ndarray, (h, w)
    parameters : dict
        The rule in words, the labels, and what values there are.

    Raises
    ------
    UsageError
        If it is no picture or a damaged one, has other proportions, or it is not clear which pixels are tissue.
    LimitError
        If it can only be decoded at once and is too large for that.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            read = _read_tiff if start[:4] in _TIFF else _read_png if start == _PNG else _read_picture
            pixels = read(file, slide_size)
        return _tissue(pixels, tuple(labels))
    except (UsageError, LimitError) as error:
        raise type(error)(f"the tissue mask {path}: {error}") from None
    except _ERRORS as error:
        raise UsageError(f"{path} is neither GeoJSON nor an image that can be read: {error}") from error


class _Sampled:
    """Collects the pixels of an image from its pieces."""

    def __init__(
        self, size: tuple[int, int], slide_size: tuple[int, int], samples: int, dtype: Any, fill: float = 0
    ) -> None:
        width, height = size
        if abs(width - height * slide_size[0] / slide_size[1]) > max(2.0, 0.02 * width):
            raise UsageError(
                f"it is {width} x {height}, which is not the shape of the slide ({slide_size[0]} x {slide_size[1]}): "
                "a mask must span the complete slide"
            )
        step = max(1.0, math.sqrt(width * height / MAX_SAMPLES))
        self.rows, self.cols = (
            ((np.arange(n := max(1, round(side / step))) + 0.5) * side / n).astype(np.int64) for side in (height, width)
        )
        self.values = np.full((len(self.rows), len(self.cols), samples), fill, dtype)

    def put(self, piece: NDArray[Any], top: int, left: int = 0, channel: int = 0) -> None:
        """Take what is needed of a piece (h, w, channels) of the image, whose first channel is `channel`."""
        rows = slice(*np.searchsorted(self.rows, (top, top + piece.shape[0])))
        cols = slice(*np.searchsorted(self.cols, (left, left + piece.shape[1])))
        part = piece[self.rows[rows] - top][:, self.cols[cols] - left]
        self.values[rows, cols, channel : channel + piece.shape[2]] = part


def _read_tiff(file: IO[bytes], slide_size: tuple[int, int]) -> MaskPixels:
    """Read the largest picture of a TIFF by tiles and strips."""
    with tifffile.TiffFile(file) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        areas = [page.imagewidth * page.imagelength for page in pages]
        page = pages[areas.index(max(areas))]
        count = max(areas.count(max(areas)), int((tiff.imagej_metadata or {}).get("images", 1))) * page.imagedepth
        size, photometric = (page.imagewidth, page.imagelength), int(page.photometric)
        if count > 1:
            raise UsageError(f"the TIFF holds {count} pictures of {size[0]} x {size[1]}: save one that is the mask")
        if page.dtype is None or photometric not in (0, 1, 2, 3, 6):
            kind = f"{page.bitspersample} bits of photometric {photometric}"
            raise UsageError(f"TIFF of {kind} cannot be read as a mask; save it as 8-bit or 16-bit grey")
        compression = getattr(page.compression, "name", str(page.compression))
        offsets, counts = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
        if ((offsets + counts)[counts > 0] > tiff.filehandle.size).any():
            raise UsageError("the TIFF is truncated: copy the file again")
        # Of a bool array tifffile writes True as 1, and 0 as white.
        white_is_zero = photometric == 0 and not (page.dtype == np.bool_ and page.software.startswith("tifffile"))
        nodata = float(page.nodata or 0)  # as GDAL declares it
        dtype = np.uint8 if page.dtype == np.bool_ else page.dtype
        sampled = _Sampled(size, slide_size, page.samplesperpixel, dtype, nodata)
        if page.is_memmappable:  # often one strip that is all of the picture
            planes = page.samplesperpixel if page.planarconfig == 2 else 1
            shape = planes, size[1], size[0], page.samplesperpixel // planes
            stored = tiff.filehandle.memmap_array(tiff.byteorder + page.dtype.char, shape, offsets[0])
            rows = max(1, _BAND // (size[0] * page.dtype.itemsize))
            for plane, top in ((p, y) for p in range(planes) for y in range(0, size[1], rows)):
                sampled.put(stored[plane, top : top + rows], top, 0, plane)
        else:
            if math.prod(page.chunks) > MAX_PIECE:
                raise LimitError("the TIFF is one compressed strip, too large to decode at once; save it in tiles")
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if "JPEG" in compression else {}
            for index in np.flatnonzero((counts > 0) & (offsets > 0)).tolist():
                # Not by page.segments: where tiles are left out it may take the bytes of others for them.
                data = _read_at(file, offsets.item(index), counts.item(index))
                piece, (plane, _, top, left, _), _ = page.decode(data, index, **tables)
                if piece is not None:
                    sampled.put(piece[0], top, left, plane)
        values: NDArray[Any] = sampled.values
        opaque, palette = None, None
        # As libtiff does, a fourth channel of no stated meaning is taken for opacity.
        channels = 3 if photometric in (2, 6) else 1
        if values.shape[2] > channels and (photometric == 2 or any(extra in (1, 2) for extra in page.extrasamples)):
            values, opaque = values[..., :channels], values[..., channels] > 0
        if photometric == 3 and page.colormap is not None:
            palette = (page.colormap.T >> 8).astype(np.uint8)
    lossy = any(name in compression for name in _LOSSY)
    return MaskPixels(size, values, opaque, palette, nodata, white_is_zero, lossy)


def _read_png(file: IO[bytes], slide_size: tuple[int, int]) -> MaskPixels:
    """Read a PNG some rows at a time, with its values at their own depth."""
    chunks: dict[bytes, list[tuple[int, int]]] = {}  # place and length, by name
    at = len(_PNG)
    while len(head := _read_at(file, at, 8)) == 8:
        length, name = struct.unpack(">I4s", head)
        chunks.setdefault(name, []).append((at + 8, length))
        at += length + 12
    header, palette, clear = (_read_at(file, *chunks.get(name, [(0, 0)])[0]) for name in (b"IHDR", b"PLTE", b"tRNS"))
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if interlaced:  # rows come in seven passes
        file.seek(0)
        return _read_picture(file, slide_size)
    samples = _PNG_SAMPLES[kind]
    row, pixel = -(-width * bits * samples // 8), max(1, bits * samples // 8)  # bytes of each
    sampled = _Sampled((width, height), slide_size, samples, np.uint16 if bits == 16 else np.uint8)
    pending, previous, top = b"", bytes(row), 0
    for data in _inflated(file, chunks.get(b"IDAT", [])):
        pending += data
        count = min(len(pending) // (row + 1), height - top)
        if not count or (len(pending) < _BAND and top + count < height):
            continue
        raw = _unfiltered(previous, pending[: count * (row + 1)], pixel)
        pending, previous = pending[count * (row + 1) :], raw[-1].tobytes()
        values: NDArray[Any]
        if bits == 16:
            values = raw.view(">u2").astype(np.uint16)
        elif bits == 8:
            values = raw
        else:  # grey or palette of 1, 2 or 4 bits
            ones = np.unpackbits(raw, axis=1)[:, : width * bits].reshape(count, width, bits)
            values = np.packbits(ones, axis=2) >> (8 - bits)
        sampled.put(values.reshape(count, width, samples), top)
        top += count
        if top == height:
            break
    if top < height:
        raise UsageError(f"the PNG is truncated: {top} of {height} rows are there")
    values, opaque, colors = sampled.values, None, None
    if kind in (4, 6):
        values, opaque = values[..., :-1], values[..., -1] > 0
    elif kind == 3:
        colors = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        if 0 in clear:
            opaque = np.frombuffer(clear.ljust(256, b"\xff"), np.uint8)[values[..., 0]] > 0
    elif clear:  # one colour stands for transparent
        opaque = (values != np.frombuffer(clear, ">u2")).any(axis=2)
    return MaskPixels((width, height), values, opaque, colors)


def _read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _inflated(file: IO[bytes], extents: list[tuple[int, int]]) -> Iterator[bytes]:
    """Decompress the data chunks of a PNG into pieces of bounded size."""
    inflate = zlib.decompressobj()
    for offset, length in extents:
        for at in range(offset, offset + length, _BAND):
            data = _read_at(file, at, min(_BAND, offset + length - at))
            while data:
                yield inflate.decompress(data, _BAND)
                data = inflate.unconsumed_tail
    yield inflate.flush()


def _unfiltered(previous: bytes, rows: bytes, pixel: int) -> NDArray[np.uint8]:
    """Undo the row filters of a PNG: uint8 (rows, bytes of a row), from the row before and the filtered rows."""
    import imagecodecs

    # Filters work on bytes and need the row before: as a small PNG of its own a band is undone at the speed of C.
    bits, kind = {1: (8, 0), 2: (8, 4), 3: (8, 2), 4: (8, 6), 6: (16, 2), 8: (16, 6)}[pixel]
    count = 1 + len(rows) // (len(previous) + 1)
    header = struct.pack(">IIBBBBB", len(previous) // pixel, count, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + previous + rows, 0)), (b"IEND", b""))
    png = _PNG + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    values = imagecodecs.png_decode(png)
    return values.astype(f">u{values.itemsize}").reshape(count, -1).view(np.uint8)[1:]


def _read_picture(file: IO[bytes], slide_size: tuple[int, int]) -> MaskPixels:
    """Read a picture of another form, all of it at once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_picture(file)
            sampled = _Sampled(
                image.size, slide_size, 1, np.uint8
            )  # the check of its proportions, before it is decoded
            if image.mode not in ("1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "F", "RGB", "RGBA"):
                image = image.convert("RGB")
            values = np.asarray(image)
    except Image.DecompressionBombError:
        raise LimitError("too large to decode at once; save it as PNG without interlacing, or as tiled TIFF") from None
    values = np.atleast_3d(values[np.ix_(sampled.rows, sampled.cols)])
    opaque, palette = None, None
    if image.mode in ("LA", "PA", "RGBA"):
        values, opaque = values[..., :-1], values[..., -1] > 0
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (clear := image.info.get("transparency")) is not None:
        if isinstance(clear, bytes):
            opaque = np.frombuffer(clear.ljust(256, b"\xff"), np.uint8)[values[..., 0]] > 0
        else:
            opaque = (values != np.array(clear)).any(axis=2)
    return MaskPixels(image.size, values, opaque, palette, lossy=image.format in _LOSSY)


def _tissue(pixels: MaskPixels, labels: tuple[int, ...]) -> tuple[BoolMask, dict[str, Any]]:
    """Decide which pixels are tissue, and say by what rule."""
    values, opaque = pixels.values, pixels.opaque
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=pixels.nodata)
        if (values != np.rint(values)).any():
            raise UsageError("it holds fractions, so that no value means tissue; save it with a threshold applied")
    if values.shape[2] > 1 and (values == values[..., :1]).all():
        values = values[..., :1]  # grey, saved as colour
    found = [] if values.shape[2] > 1 else _distinct(values)
    if labels:
        if pixels.lossy or values.shape[2] > 1:
            kind = "a lossy format" if pixels.lossy else "colour"
            raise UsageError(f"labels cannot be chosen in {kind}; save it as a PNG or TIFF with one number per pixel")
        if not set(labels) & set(found):
            raise UsageError(f"no pixel has the label {' or '.join(map(str, labels))}; there are {_listed(found)}")
        mask, rule = np.isin(values[..., 0], labels), f"labels {_listed(labels)} are tissue"
    elif pixels.white_is_zero:
        raise UsageError(f"its 0 is white, so that 0 or black could be the background; {_CHOOSE}")
    elif pixels.lossy:
        grey = values.max(axis=2)
        highest = grey.max()
        spread = running_max(grey, 3) - running_min(grey, 3)
        between = (grey > 0.25 * highest) & (grey < 0.75 * highest) & (spread <= 16)
        # A lossy black is not quite 0. Half of the brightest is between two values, but of three it loses one.
        if 0 < highest < 128 or between.sum() > max(64, 0.001 * grey.size):
            raise UsageError(
                "it has areas between black and white, which its lossy format blurs; save it as PNG or TIFF"
            )
        mask, rule = grey > highest / 2, "all above half of the brightest value is tissue (lossy format)"
    elif pixels.palette is not None:
        black = [number for number in found if not pixels.palette[number : number + 1].any()]
        background = 0
        if black and pixels.palette[0].any():
            # Numbers say one thing and colours another. Of two colours the black one is the background.
            if len(found) > 2 or 0 not in found:
                raise UsageError(
                    f"its palette has a colour for 0, and black for {_listed(black)}, so that either could be the "
                    f"background; {_CHOOSE}"
                )
            background = black[0]
        mask, rule = values[..., 0] != background, f"all but {background} of the palette is tissue"
    else:
        mask, rule = (values != 0).any(axis=2), "all but 0 is tissue"
        if pixels.nodata:
            mask &= (values != pixels.nodata).any(axis=2)
            rule = f"all but 0 and {pixels.nodata:g} (no data) is tissue"
    if opaque is not None and not opaque.all():
        if not labels and not (mask & opaque).any():  # painted in black on nothing
            mask, rule = opaque, "all that is not transparent is tissue"
        else:
            mask, rule = mask & opaque, f"{rule}, where not transparent"
    parameters = {"rule": rule, "labels": list(labels) or None, "values": found[:_LISTED], "n_values": len(found)}
    return mask, {**parameters, "image_size": list(pixels.size)}


def _distinct(values: NDArray[Any]) -> list[Any]:
    """List the values that occur; by a table where one is possible, which is much faster than sorting."""
    if values.dtype not in (np.uint8, np.uint16):
        return list(np.unique(values).tolist())
    occurs = np.zeros(1 << 8 * values.itemsize, np.bool_)
    occurs[values.ravel()] = True
    found: list[int] = np.flatnonzero(occurs).tolist()
    return found


def _listed(values: Sequence[float]) -> str:
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return ", ".join(f"{value:g}" for value in values[:_LISTED]) + more
