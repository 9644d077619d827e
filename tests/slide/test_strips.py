"""TIFFs in strips: what the file leaves out is never black, and SubIFDs in strips are levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.odd_tiff import paint, shrink

import wsivit
from wsivit import TileOptions, open_slide
from wsivit.errors import SlideError
from wsivit.store import Status

PICTURE = paint(1, 300, 800)
ROWS = 16


def leave_out(page: tifffile.TiffPage, strips: list[int], how: str = "both") -> None:
    for name in {"both": ("Offsets", "ByteCounts"), "count": ("ByteCounts",), "offset": ("Offsets",)}[how]:
        tag = page.tags[f"Strip{name}"]
        tag.overwrite(tuple(0 if strip in strips else value for strip, value in enumerate(tag.value)))


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("how", ["both", "count", "offset"])
@pytest.mark.parametrize("reader", ["auto", "image", "tiffslide"])
def test_strips_without_bytes_are_never_scanned(tmp_path: Path, how: str, reader: str, compression: str | None) -> None:
    path, lost = tmp_path / "a.tif", [5, *range(16, 34)]  # the second half of which holds a tile of 256
    how_written = {"rowsperstrip": ROWS, "photometric": "rgb", "compression": compression, "metadata": None}
    tifffile.imwrite(path, PICTURE, **how_written)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        leave_out(tiff.pages.first, lost, how)
    expected = PICTURE.copy()
    for strip in lost:
        expected[strip * ROWS : (strip + 1) * ROWS] = 255
    try:
        slide = open_slide(path, reader=reader, mpp=0.5)  # type: ignore[arg-type]
    except SlideError as error:
        assert reader == "tiffslide" or how == "offset", error
        return
    with slide:
        np.testing.assert_array_equal(slide.read(slide.plan(0.5), 0, 0, 300, 800), expected)
        store = wsivit.tile(slide, tmp_path / "s", TileOptions(mpp=0.5, tile_size=256, tissue="none")).store
    missing = {(int(store.col[i]), int(store.row[i])) for i in np.flatnonzero(store.status == Status.MISSING)}
    assert missing == {(0, 1), (1, 1)}


def test_a_strip_that_only_one_colour_lacks_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    planes = np.ascontiguousarray(np.moveaxis(PICTURE, -1, 0))
    tifffile.imwrite(path, planes, rowsperstrip=ROWS, photometric="rgb", planarconfig="separate", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        leave_out(tiff.pages.first, [3])
    with pytest.raises(SlideError, match="some of its colour planes only"):
        open_slide(path)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "jpeg", None])
@pytest.mark.parametrize("lost", [[], [3], list(range(25))])
def test_a_sub_directory_in_strips_is_a_level(tmp_path: Path, compression: str | None, lost: list[int]) -> None:
    path, half = tmp_path / "a.tif", shrink(PICTURE, 2)
    how = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PICTURE, subifds=1, tile=(64, 64), compression="zlib", **how)
        tiff.write(half, rowsperstrip=ROWS, subfiletype=1, compression=compression, **how)
    if lost:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            leave_out(tiff.pages.first.pages[0], lost)  # type: ignore[index, arg-type]
    with open_slide(path, mpp=0.5) as slide:
        info = slide.info()
        assert not info.others and not info.warnings
        # JPEG in strips is passed over, as a level that the finer one stands for.
        assert [level.downsample_x for level in info.levels] == ([1.0] if compression == "jpeg" else [1.0, 2.0])
        assert info.filled_tiles[1:] == ((sum([bool(lost), len(lost) > 1]),) if compression != "jpeg" else ())
        seen = slide.read(slide.plan(1.0), 0, 0, 150, 400).astype(int)
    assert np.abs(seen - half).max() <= 1


def test_another_picture_in_strips_is_no_level(tmp_path: Path) -> None:
    """What it shows decides, also of a SubIFD."""
    path = tmp_path / "a.tif"
    how = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PICTURE, subifds=1, tile=(64, 64), **how)
        tiff.write(paint(21, 150, 400), rowsperstrip=ROWS, subfiletype=1, **how)
    with open_slide(path, mpp=0.5) as slide:
        assert [(other.width, other.height) for other in slide.info().others] == [(150, 400)]
        assert len(slide.levels) == 1
