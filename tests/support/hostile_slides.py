"""A small corpus of damaged and odd slides, each with the end that it deserves: made on the spot from a good one."""

# ruff: noqa: E501 - one line for each slide
from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from support.slide_helpers import damage, texture, write_jpeg_slide
from support.tiff_editor import COUNTS, OFFSETS, Editor

WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, COMPRESSION = 256, 257, 258, 262, 277, 259
DESCRIPTION, TILE_WIDTH, TILE_LENGTH, TABLES = 270, 322, 323, 347
RESOLUTION_UNIT = 296
MPP = "MPP = 0.4990"
TEXT = f"Aperio Image Library v1\r\n640x512|AppMag = 20|{MPP}|Title = {'x' * 40}"
PICTURE = texture(640, 512)
TILE = 8  # the one that is spoilt, of 5 x 4


@dataclass(frozen=True)
class Case:
    """A slide and its end.

    Attributes
    ----------
    name : str
    make : callable
        Makes it at a path, of the bytes of the good slide.
    code : int
        The exit code of ``wsivit tile``.
    words : str
        Pattern of what it says.
    unreadable : int
        Tiles that are marked so.
    """

    name: str
    make: Callable[[Path, bytes], object]
    code: int
    words: str = ""
    unreadable: int = 0


def good_slide(path: Path) -> Path:
    """Write the slide that the others are made of: YCbCr 4:2:0 JPEG, tables apart, two levels."""
    return write_jpeg_slide(path, PICTURE, tables=True, levels=(1, 2), description=TEXT)


def _write(data: bytes) -> Callable[[Path, bytes], object]:
    return lambda path, _: path.write_bytes(data)


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, bytes], object]:
    return lambda path, good: path.write_bytes(change(good))


def _edit(change: Callable[[Editor], object]) -> Callable[[Path, bytes], object]:
    def make(path: Path, good: bytes) -> None:
        tiff = Editor(good)
        change(tiff)
        path.write_bytes(tiff.data)

    return make


def _damage(how: str) -> Callable[[Path, bytes], object]:
    def make(path: Path, good: bytes) -> None:
        path.write_bytes(good)
        damage(path, TILE, how)

    return make


def _spoil(change: Callable[[bytes], bytes]) -> Callable[[Path, bytes], object]:
    """Change the bytes of one tile."""

    def edit(tiff: Editor) -> None:
        offset, count = tiff.tile(TILE)
        tiff.data[offset : offset + count] = change(bytes(tiff.data[offset : offset + count])).ljust(count, b"\0")

    return _edit(edit)


def _scale(text: str) -> Callable[[Path, bytes], object]:
    """State another scale, in as many bytes, and nothing in the resolution tags."""

    def edit(tiff: Editor) -> None:
        tiff.data = bytearray(bytes(tiff.data).replace(MPP.encode(), text.encode().ljust(len(MPP))))
        tiff.field(RESOLUTION_UNIT, value=1)

    return _edit(edit)


def _tiff(picture: np.ndarray, **how: object) -> Callable[[Path, bytes], object]:
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    how = {"tile": (128, 128), "photometric": "rgb", "metadata": None, **scale, **how}
    return lambda path, _: tifffile.imwrite(path, picture, **how)  # type: ignore[arg-type]


def _unwritten(path: Path, _: bytes) -> None:
    """Write an uncompressed pyramid, and zeros over all from the middle of its eighth tile."""
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            tiff.write(PICTURE[::step, ::step], tile=(128, 128), photometric="rgb", metadata=None, **scale)
    with tifffile.TiffFile(path) as tiff:
        cut = tiff.pages[0].dataoffsets[7] + 1000
    data = path.read_bytes()
    path.write_bytes(data[:cut] + bytes(len(data) - cut))


def _bomb(path: Path, _: bytes) -> None:
    """A quarter of a million million pixels, of one tile that every entry of the index points at."""
    _tiff(np.zeros((128, 128, 3), np.uint8), compression="jpeg", bigtiff=False)(path, b"")
    tiff = Editor(path.read_bytes())
    offset, count = tiff.tile(0)
    for tag, value in ((OFFSETS, offset), (COUNTS, count)):
        tiff.field(tag, kind=4, count=64 * 64, value=len(tiff.data))
        tiff.data += struct.pack("<I", value) * 64 * 64
    for tag, side in ((WIDTH, 2**19), (HEIGHT, 2**19), (TILE_WIDTH, 2**13), (TILE_LENGTH, 2**13)):
        tiff.number(tag, side)
    path.write_bytes(tiff.data)


def _moved(good: bytes, offset: int, count: int) -> bytearray:
    """Say that one tile is elsewhere."""
    tiff = Editor(good)
    tiles = [(offset, count) if index == TILE else tiff.tile(index) for index in range(20)]
    for tag, values in zip((OFFSETS, COUNTS), zip(*tiles, strict=True), strict=True):
        tiff.field(tag, kind=4, count=20, value=len(tiff.data))
        tiff.data += struct.pack("<20I", *values)
    return tiff.data


def _heavy(path: Path, good: bytes) -> None:
    """One tile is all of a gigabyte of which nothing is on the disk."""
    path.write_bytes(_moved(good, Editor(good).tile(TILE)[0], (1 << 30) - 2 * len(good)))
    os.truncate(path, 1 << 30)


def _scans(path: Path, good: bytes) -> None:
    """One tile has thousands of scans of 12 bytes, for each of which a decoder goes through the whole picture."""
    file = io.BytesIO()
    Image.new("RGB", (128, 128)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    jpeg = jpeg[:-2] + 5000 * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:]
    path.write_bytes(good + jpeg)
    path.write_bytes(_moved(path.read_bytes(), len(good), len(jpeg)))


def _long(tag: int) -> Callable[[Path, bytes], object]:
    """A text or table of half a gigabyte of which nothing is on the disk."""

    def make(path: Path, good: bytes) -> None:
        tiff = Editor(good)
        tiff.field(tag, count=1 << 29, value=len(good))
        path.write_bytes(tiff.data)
        os.truncate(path, 1 << 30)

    return make


def _jpeg2000(spoil: Callable[[bytearray, int, int], object]) -> Callable[[Path, bytes], object]:
    def make(path: Path, _: bytes) -> None:
        _tiff(PICTURE, compression="jpeg2000")(path, b"")
        with tifffile.TiffFile(path) as tiff:
            offset, count = tiff.pages[0].dataoffsets[TILE], tiff.pages[0].databytecounts[TILE]
        data = bytearray(path.read_bytes())
        spoil(data, offset, count)
        path.write_bytes(data)

    return make


def _cut(data: bytearray, offset: int, count: int) -> None:
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)


def _lying_header(data: bytearray, offset: int, count: int) -> None:
    at = data.index(b"\xff\x4f\xff\x51", offset)
    struct.pack_into(">2I", data, at + 8, 60000, 60000)


RGBA = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
GREY = PICTURE[..., 0]
CASES = [
    Case("good", _bytes(bytes), 0),
    # no slide at all
    Case("nothing", _write(b""), 3, r"empty \(0 bytes\)"),
    Case("html", _write(b"\n<!DOCTYPE html><html>403 Forbidden"), 3, "an HTML page"),
    Case("lfs", _write(b"version https://git-lfs.github.com/spec/v1\noid"), 3, "a Git LFS pointer"),
    Case("zeros", _write(bytes(70000)), 3, "begins with zeros"),
    Case("text", _write(b"this is no slide\n" * 50), 3, "no reader reads it"),
    Case("pipe", lambda path, _: os.mkfifo(path), 3, "not a regular file"),
    Case("loop", lambda path, _: path.symlink_to(path.name), 3, "symbolic links"),
    Case("nowhere", lambda path, _: path.symlink_to("not there.svs"), 3, "no such slide"),
    # cut short or with holes
    Case("7 bytes", _bytes(lambda good: good[:7]), 3, "7 bytes: truncated"),
    Case("header only", _bytes(lambda good: good[:8]), 3, r"TIFF directory at 8 lies beyond the end \(8\): truncated"),
    Case("half", _bytes(lambda good: good[: len(good) // 2]), 3, r"lies beyond the end \(\d+\): truncated"),
    Case("a tail", _bytes(lambda good: good + bytes(range(256)) * 16), 0),
    Case("unwritten", _unwritten, 4, r"beyond the end of the file", 13),
    # one tile
    Case("tile of zeros", _damage("zeros"), 4, r"tile \(3, 1\): no JPEG start marker", 1),
    Case("half a tile", _damage("half"), 4, r"tile \(3, 1\): Premature end|end marker", 1),
    Case("tile beyond", _damage("beyond"), 4, r"\(3, 1\): bytes \d+ to \d+ lie beyond the end", 1),
    Case("tile of noise", _spoil(lambda tile: bytes(range(1, 256)) * (len(tile) // 255)), 4, "no JPEG start marker", 1),
    Case("another tile's size", _spoil(lambda tile: tile.replace(b"\0\x80\0\x80", b"\0\x80\0\x40", 1)), 4, "JPEG is", 1),
    Case("a tile of a gigabyte", _heavy, 4, r"[0-9,]+ bytes are too many for 128x128 pixels", 1),
    Case("a tile of scans", _scans, 4, "JPEG of more than 100 scans", 1),
    Case("no tables", _edit(lambda t: struct.pack_into("<H", t.data, t.entry(TABLES), 60000)), 4, "no quantization table", 20),
    Case("JPEG 2000 cut", _jpeg2000(_cut), 4, "end marker", 1),
    Case("JPEG 2000 lies", _jpeg2000(_lying_header), 4, "JPEG 2000 is 60000x60000", 1),
    # structure
    Case("loop of directories", _edit(lambda t: t.link(1, t.directories[0])), 3, "form a loop"),
    Case("no directory", _edit(lambda t: struct.pack_into("<I", t.data, 4, 0)), 3, "no directory"),
    Case("65535 tags", _edit(lambda t: struct.pack_into("<H", t.data, t.directories[0], 65535)), 3, "65535 tags"),
    Case("a type unknown", _edit(lambda t: t.field(OFFSETS, kind=99)), 3, "tag 324 has type 99"),
    Case("4 GiB of offsets", _edit(lambda t: t.field(OFFSETS, count=2**30)), 3, "tag 324.*truncated"),
    Case("index too short", _edit(lambda t: t.number(HEIGHT, 600)), 3, "20 tiles are indexed where 640x600 pixels need 25"),
    Case("index too long", _edit(lambda t: t.number(HEIGHT, 300)), 3, "20 tiles are indexed where 640x300 pixels need 15"),
    Case("wide", _edit(lambda t: t.number(WIDTH, 4 * 10**9)), 3, "4000000000x512 pixels"),
    Case("huge tiles", _edit(lambda t: t.number(TILE_WIDTH, 65520)), 3, "tiles of 65520x128"),
    Case("a text of gigabytes", _long(DESCRIPTION), 3, "TIFF tag 270, its texts and tables are more than"),
    Case("tables of gigabytes", _long(TABLES), 3, "TIFF tag 347, its texts and tables are more than"),
    Case("a compression unknown", _edit(lambda t: t.number(COMPRESSION, 9999)), 3, "9999"),
    # size
    Case("too many pixels", _bomb, 6, r"274,877,906,944 pixels are more than the limit of 100,000,000,000.*--max-pixels"),
    # pixels
    Case("16 bits", _tiff(PICTURE.astype(np.uint16) * 257), 3, "16-bit RGB is not supported"),
    Case("float", _tiff(PICTURE.astype(np.float32) / 255), 3, "32-bit float RGB is not supported"),
    Case("signed", _tiff((PICTURE // 2).astype(np.int8)), 3, "8-bit signed RGB is not supported"),
    Case("CMYK", _tiff(RGBA, photometric="separated"), 3, "8-bit CMYK is not supported"),
    Case("infrared", _tiff(RGBA, extrasamples=["unspecified"]), 3, "of 4 samples, none of them alpha, is not supported"),
    Case("bilevel", _tiff(GREY > 128, photometric="minisblack"), 3, "1-bit grey is not supported"),
    Case("white is zero", _tiff(GREY, photometric="miniswhite"), 3, "8-bit white-is-zero grey is not supported"),
    Case("palette", _tiff(GREY, photometric="palette", colormap=np.zeros((3, 256), np.uint16)), 3, "palette colour is not"),
    Case("fluorescence", _tiff(np.stack([GREY] * 5), photometric="minisblack"), 3, "5 grey pictures of one size"),
    Case("alpha", _tiff(RGBA, extrasamples=["unassalpha"], compression="deflate"), 0),
    Case("grey", _tiff(GREY, photometric="minisblack", compression="deflate"), 0),
    # scale
    Case("no scale", _scale("Nothing = 1"), 5, "no usable scale.*--slide-mpp"),
    Case("scale of zero", _scale("MPP = 0.000"), 5, "outside 0.05 to 20"),
    Case("negative scale", _scale("MPP = -0.5"), 5, "outside 0.05 to 20"),
    Case("scale in nm", _scale("MPP = 499"), 5, "outside 0.05 to 20"),
    Case("a word for a scale", _scale("MPP = none"), 5, "not a length per pixel"),
    Case("infinite scale", _scale("MPP = inf"), 5, "not a length per pixel"),
]  # fmt: skip


def make_slides(folder: Path) -> Iterator[tuple[Case, Path]]:
    """Make every slide of the corpus."""
    good = good_slide(folder / "good slide.svs").read_bytes()
    for case in CASES:
        path = folder / f"{case.name.replace(' ', '_')}.svs"
        case.make(path, good)
        yield case, path
