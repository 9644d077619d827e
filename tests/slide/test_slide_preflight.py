"""Damaged TIFF structures are refused with what is wrong and where, before any reader sees them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from support.slide_helpers import texture, write_jpeg_slide
from support.tiff_editor import COUNTS, OFFSETS, Editor

from wsivit import open_slide
from wsivit.errors import SlideError, WsivitError
from wsivit.slide import TileFailure

WIDTH, TILE_WIDTH, DESCRIPTION, SAMPLES = 256, 322, 270, 277


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "a.tif"
    description = "Aperio v1|MPP = 0.5|" + "x" * 50
    return write_jpeg_slide(path, texture(500, 400), levels=(1, 2), tables=True, description=description).read_bytes()


EDITS: dict[str, tuple[Callable[[Editor], object], str]] = {
    "first directory beyond": (lambda t: struct.pack_into("<I", t.data, 4, 10**8), "100000000.*truncated"),
    "no directory": (lambda t: struct.pack_into("<I", t.data, 4, 0), "no directory"),
    "next beyond": (lambda t: t.link(1, 10**8), "truncated"),
    "loop": (lambda t: t.link(1, t.directories[0]), "loop"),
    "own loop": (lambda t: t.link(0, t.directories[0]), "loop"),
    "65535 tags": (lambda t: struct.pack_into("<H", t.data, t.directories[0], 65535), "65535 tags"),
    "no tags": (lambda t: struct.pack_into("<H", t.data, t.directories[0], 0), "0 tags"),
    "offsets of an unknown type": (lambda t: t.field(OFFSETS, kind=99), "tag 324 has type 99"),
    "offsets in the header": (lambda t: t.field(OFFSETS, value=0), "tag 324 at 0 lie in the file's header"),
    "a billion offsets": (lambda t: t.field(OFFSETS, count=2**30), "tag 324.*truncated"),
    "one offset": (lambda t: t.field(COUNTS, count=1), "tag 325 has 1 entries where the picture needs 16"),
    "a long description": (lambda t: t.field(DESCRIPTION, count=2**30), "tag 270.*truncated"),
    "no width": (lambda t: t.field(WIDTH, kind=4, value=0), "0x400"),
    "a huge width": (lambda t: t.field(WIDTH, kind=4, value=4 * 10**9), "4000000000x400"),
    "a larger picture": (lambda t: t.field(WIDTH, kind=4, value=50000), "tiles are indexed"),
    "no tile width": (lambda t: t.field(TILE_WIDTH, kind=4, value=0), "tiles of 0x128"),
    "a huge tile": (lambda t: t.field(TILE_WIDTH, kind=4, value=65520), "tiles of 65520x128"),
    "five samples": (lambda t: t.field(SAMPLES, value=5), "8-bit YCbCr of 5 samples"),
}


@pytest.mark.parametrize("name", EDITS)
def test_each_kind_of_damage_is_named(tmp_path: Path, good: bytes, name: str) -> None:
    edit, words = EDITS[name]
    tiff = Editor(good)
    edit(tiff)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff.data)
    with pytest.raises(SlideError, match=f"a\\.tif.*{words}"):
        open_slide(path)


def test_a_copy_cut_short_is_refused_or_read_as_far_as_it_goes(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "a.tif"
    for length in (2, 4, 7, 8, 100, 1000, len(good) // 3, len(good) // 2):
        path.write_bytes(good[:length])
        try:
            with open_slide(path) as slide:
                failures = [
                    isinstance(tile, TileFailure) for tile in slide.read_tiles(slide.plan(0.5), 128, [0], [300])
                ]
            assert failures == [True]
        except SlideError as error:
            assert "a.tif" in str(error)


def test_a_pyramid_that_ends_in_zeros_keeps_its_first_level(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            tiff.write(texture(512, 512)[::step, ::step], tile=(128, 128), compression="deflate", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        second = tiff.pages[1].offset
    data = path.read_bytes()
    path.write_bytes(data[:second] + bytes(len(data) - second))
    with open_slide(path, mpp=0.5) as slide:
        assert len(slide.levels) == 1
        assert isinstance(next(slide.read_tiles(slide.plan(0.5), 128, [0], [0])), TileFailure) is False


@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8), cut=st.floats(0.2, 1))
def test_no_damage_raises_anything_but_our_errors(good: bytes, tmp_path_factory, changes, cut) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(good)
    at = struct.unpack_from("<I", good, 4)[0]
    for where, value in changes:  # half of them in the first directory, where they hurt
        place = at + int(where * 2 * 250) if where < 0.5 else int((where - 0.5) * 2 * (len(data) - 1))
        data[place] = value
    path = tmp_path_factory.mktemp("bad") / "a.tif"
    path.write_bytes(data[: max(1, int(cut * 1.3 * len(data)))])
    try:
        with open_slide(path, mpp=0.5) as slide:
            for tile in slide.read_tiles(slide.plan(0.5), 200, [0, 200], [0, 200]):
                assert isinstance(tile, TileFailure) or tile.shape == (200, 200, 3)
    except WsivitError as error:
        assert "a.tif" in str(error)
