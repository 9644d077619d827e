"""The native reader's pixels against independent decoders, and each native tile decoded once."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from support.slide_helpers import damage, set_photometric, texture, write_jpeg_slide

from wsivit import open_slide
from wsivit.errors import SlideError, UnreadableTilesError
from wsivit.io.byte_source import LocalFile
from wsivit.slide import TileFailure
from wsivit.slide.backend import UnreadableBlockError
from wsivit.slide.jpeg import EOI, SplitJpeg
from wsivit.slide.readers.native import NativeBackend

PICTURE = texture(700, 500)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 x 1300 pixels in native tiles of 240."""
    return write_jpeg_slide(tmp_path_factory.mktemp("wide") / "a.tif", texture(1500, 1300), tile=240)


def openslide_pixels(path: Path, x: int, y: int, width: int, height: int) -> np.ndarray:
    with openslide.OpenSlide(path) as handle:
        return np.asarray(handle.read_region((x, y), 0, (width, height)).convert("RGB"))


@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("jfif", [False, True])
@pytest.mark.parametrize(("rgb", "subsampling"), [(True, "444"), (False, "420"), (False, "422"), (False, "444")])
def test_pixels_equal_openslide_in_every_layout(
    tmp_path: Path, tables: bool, jfif: bool, rgb: bool, subsampling: str
) -> None:
    path = write_jpeg_slide(
        tmp_path / "a.tif", PICTURE, rgb=rgb, subsampling=subsampling, tables=tables, jfif=jfif and not rgb
    )
    with open_slide(path) as slide:
        assert slide.reader == "native", slide.reader_reason
        assert "same pixels as OpenSlide" in slide.reader_reason
        region = slide.read(slide.plan(0.5), 100, 50, 590, 440)
    np.testing.assert_array_equal(region, openslide_pixels(path, 100, 50, 590, 440))


@pytest.mark.parametrize("jfif", [False, True])
def test_rgb_is_not_taken_for_ycbcr_whatever_marker_it_carries(tmp_path: Path, jfif: bool) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, rgb=True, subsampling="444", tables=True, jfif=jfif)
    with open_slide(path, reader="native") as slide:
        region = slide.read(slide.plan(0.5), 0, 0, 700, 500)
    assert np.abs(region.astype(int) - PICTURE).mean() < 6


def test_a_wrong_label_can_be_overruled_everywhere(tmp_path: Path) -> None:
    right = write_jpeg_slide(tmp_path / "right.tif", PICTURE, rgb=True, subsampling="444", levels=(1, 2))
    wrong = Path(shutil.copy(right, tmp_path / "wrong.tif"))
    set_photometric(wrong, 6)
    with open_slide(right) as good, open_slide(wrong, jpeg_color="rgb") as fixed, open_slide(wrong) as believed:
        for mpp in (0.5, 1.0, 2.0):
            plan = good.plan(mpp)
            expected = good.read(plan, 0, 0, 150, 120)
            np.testing.assert_array_equal(fixed.read(plan, 0, 0, 150, 120), expected)
            assert np.abs(believed.read(plan, 0, 0, 150, 120).astype(int) - expected).mean() > 20
        assert fixed.open_options == {"reader": "native", "mpp": None, "jpeg_color": "rgb"}
        tiles = fixed.native_tiles(0)
        assert tiles is not None
        decoded = Image.open(io.BytesIO(tiles.jpeg(0, 0) or b""))
    np.testing.assert_array_equal(np.asarray(decoded), openslide_pixels(right, 0, 0, 128, 128))


def test_copied_streams_are_complete_jpegs_of_the_same_pixels(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, tables=True)
    with open_slide(path) as slide:
        tiles = slide.native_tiles(0)
        assert tiles is not None
        assert (tiles.tile_width, tiles.tile_height, tiles.n_cols, tiles.n_rows) == (128, 128, 6, 4)
        for col, row in ((0, 0), (3, 2)):
            decoded = np.asarray(Image.open(io.BytesIO(tiles.jpeg(col, row) or b"")))
            np.testing.assert_array_equal(decoded, slide.read(slide.plan(0.5), col * 128, row * 128, 128, 128))


def whole(jpeg: SplitJpeg) -> bytes:
    return jpeg.header + jpeg.data.tobytes()


def test_tiles_copied_together_are_those_copied_one_by_one(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, tables=True)
    row, col = np.divmod(np.random.default_rng(0).permutation(np.r_[np.arange(24), 5]), 6)
    with open_slide(path) as slide:
        tiles = slide.native_tiles(0)
        assert tiles is not None
        singly = [tiles.jpeg(*cell) for cell in zip(col.tolist(), row.tolist(), strict=True)]
        for size in (1, 4, 7, 100):
            assert [whole(jpeg) for run in tiles.jpegs(col, row, size) for jpeg in run or ()] == singly


@pytest.mark.parametrize("how", ["zeros", "half", "blank", "text"])
def test_tiles_are_not_copied_together_where_one_is_damaged_or_holds_more_than_a_picture(
    tmp_path: Path, how: str
) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, tables=True)
    if how == "text":
        with tifffile.TiffFile(path) as tiff:
            end = tiff.pages[0].dataoffsets[8] + tiff.pages[0].databytecounts[8]
        with path.open("r+b") as file:
            file.seek(end - 20)
            file.write(EOI + b"Patient: J. Doe " + EOI)
    else:
        damage(path, 8, how)
    with open_slide(path, reader="native") as slide:
        tiles = slide.native_tiles(0)
        assert tiles is not None
        past_the_end = [6, 0]
        damaged, good, outside = tiles.jpegs(np.array([1, 2, 0, 3, *past_the_end]), np.array([1, 1, 1, 1, 0, 4]), 2)
        assert damaged is None
        assert [whole(jpeg) for jpeg in good or ()] == [tiles.jpeg(0, 1), tiles.jpeg(3, 1)]
        assert outside is None
        if how == "text":
            assert b"Doe" not in (tiles.jpeg(2, 1) or b"Doe")


def test_bigtiff_and_pyramid_levels(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, levels=(1, 2, 4), bigtiff=True)
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        assert slide.reader == "native"
        assert [(level.width, level.height) for level in slide.levels] == list(other.level_dimensions)
        plan = slide.plan(2.0)
        assert (plan.level, plan.native) == (2, True)
        np.testing.assert_array_equal(
            slide.read(plan, 0, 0, 128, 100), np.asarray(other.read_region((0, 0), 2, (128, 100)).convert("RGB"))
        )


def test_progressive_tiles_are_read_and_copied(tmp_path: Path) -> None:
    stored = io.BytesIO()
    Image.fromarray(PICTURE[:256, :256]).save(stored, "JPEG", progressive=True, quality=90)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        how = {"shape": (256, 256, 3), "dtype": np.uint8, "tile": (256, 256), "metadata": None}
        tiff.write(iter([stored.getvalue()]), photometric="ycbcr", subsampling=(2, 2), compression="jpeg", **how)
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert slide.reader == "native"
        found, tiles = slide.read(slide.plan(0.5), 0, 0, 256, 256), slide.native_tiles(0)
        assert tiles is not None
        copied = tiles.jpeg(0, 0)
    assert copied is not None
    for picture in (stored, io.BytesIO(copied)):
        with Image.open(picture) as image:
            assert np.abs(np.asarray(image).astype(int) - found).max() <= 4


@pytest.mark.parametrize(("how", "reason"), [("zeros", "start marker"), ("half", ""), ("beyond", "beyond the end")])
def test_a_damaged_tile_fails_alone_and_says_why(tmp_path: Path, how: str, reason: str) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, tables=True)
    with open_slide(path) as slide:
        whole = slide.read(slide.plan(0.5), 0, 0, 700, 500)
    damage(path, 8, how)  # column 2, row 1
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(0, 700, 64), np.arange(0, 500, 64)))
    with open_slide(path) as slide:
        plan = slide.plan(0.5)
        results = list(slide.read_tiles(plan, 64, x, y))
        bad = {(int(a), int(b)) for a, b, tile in zip(x, y, results, strict=True) if isinstance(tile, TileFailure)}
        assert bad == {(a, b) for a in (256, 320) for b in (128, 192)}
        for a, b, tile in zip(x, y, results, strict=True):
            if isinstance(tile, TileFailure):
                assert "tile (2, 1)" in tile.reason
                assert reason in tile.reason
            elif a + 64 <= 700 and b + 64 <= 500:
                np.testing.assert_array_equal(tile, whole[b : b + 64, a : a + 64])
        with pytest.raises(UnreadableTilesError, match=r"tile \(2, 1\)"):
            slide.read(plan, 300, 150, 10, 10)
        tiles = slide.native_tiles(0)
        assert tiles is not None
        with pytest.raises(SlideError):
            tiles.jpeg(2, 1)


@pytest.mark.parametrize("compression", ["jpeg", "aperio_jp2000_rgb"])
def test_a_tile_that_the_index_denies_is_unreadable_and_not_blank(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE, tile=(128, 128), photometric="rgb", compression=compression, metadata=None)
    damage(path, 8, "denied")
    with open_slide(path, mpp=0.5, reader="native") as slide:
        tiled = slide._backend.tiled[0]  # type: ignore[attr-defined]
        assert np.flatnonzero(tiled.counts <= 0).tolist() == [8]
        row, col = divmod(8, tiled.n_cols)
        with pytest.raises(UnreadableBlockError, match="no bytes, but one begins at its place"):
            tiled.block(col, row, 1)


def test_a_blank_tile_is_background(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE)
    damage(path, 8, "blank")
    with open_slide(path) as slide:
        assert slide.reader == "native"
        tiles = slide.native_tiles(0)
        assert tiles is not None
        assert tiles.jpeg(2, 1) is None
        region = slide.read(slide.plan(0.5), 240, 120, 160, 150)
    assert (region[8:136, 16:144] == 255).all()
    assert region[:, :16].std() > 5


class Counting(NativeBackend):
    """Counts how often each native tile is decoded."""

    def __init__(self, path: Path) -> None:
        super().__init__(LocalFile(path))
        self.decoded: Counter[tuple[int, int]] = Counter()

    def block(self, level, col, row, reduce):  # type: ignore[no-untyped-def]
        self.decoded[col, row] += 1
        return super().block(level, col, row, reduce)


@pytest.mark.parametrize(("size", "step"), [(256, 256), (512, 512), (256, 128), (100, 37)])
@pytest.mark.parametrize("mpp", [0.5, 0.58, 1.0])
def test_each_native_tile_is_decoded_once_per_pass(wide: Path, size: int, step: int, mpp: float) -> None:
    with open_slide(wide) as slide:
        slide._backend = Counting(wide)
        slide.threads = 3 if step > 100 else 1
        plan = slide.plan(mpp)
        x, y = (g.ravel() for g in np.meshgrid(np.arange(0, plan.width, step), np.arange(0, plan.height, step)))
        tiles = list(slide.read_tiles(plan, size, x, y))
        assert len(tiles) == len(x)
        assert set(slide._backend.decoded.values()) == {1}
        assert len(slide._backend.decoded) == 7 * 6
        for index in np.random.default_rng(0).choice(len(x), 4, replace=False):
            np.testing.assert_array_equal(tiles[index], slide.read(plan, int(x[index]), int(y[index]), size, size))


def test_only_what_is_needed_is_decoded_and_memory_is_bounded(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(wide) as slide:
        slide._backend = Counting(wide)
        plan = slide.plan(0.5)
        list(slide.read_tiles(plan, 100, [0, 700], [0, 700]))
        assert set(slide._backend.decoded) == {(0, 0), (2, 2), (3, 2), (2, 3), (3, 3)}
        monkeypatch.setattr("wsivit.slide.reading._CACHE_BYTES", 0)  # nothing kept: decoded again, still right
        x, y = (g.ravel() for g in np.meshgrid(np.arange(0, 1500, 100), np.arange(0, 1300, 100)))
        order = np.random.default_rng(1).permutation(len(x))
        for index, tile in zip(order, slide.read_tiles(plan, 100, x[order], y[order]), strict=True):
            if index % 40 == 0:
                np.testing.assert_array_equal(tile, slide.read(plan, int(x[index]), int(y[index]), 100, 100))


def test_a_native_reader_that_differs_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE)
    decode = NativeBackend.block

    def brighter(self, *place):  # type: ignore[no-untyped-def]
        return np.minimum(decode(self, *place), 200) + np.uint8(20)

    monkeypatch.setattr(NativeBackend, "block", brighter)
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert "the native reader differs" in slide.reader_reason
    with open_slide(path, reader="native") as slide:
        assert slide.reader == "native"


def test_a_native_reader_of_other_sizes_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, levels=(1, 2))
    init = NativeBackend.__init__

    def one_pixel_wider(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        init(self, *args, **kwargs)
        self.tiled[1].size = (self.tiled[1].size[0] + 1, self.tiled[1].size[1])

    monkeypatch.setattr(NativeBackend, "__init__", one_pixel_wider)
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert "level 1 is 351x250" in slide.reader_reason


def test_real_slides_equal_openslide(real_slide) -> None:  # type: ignore[no-untyped-def]
    for name, x, y in (("CMU-1-Small-Region.svs", 900, 1400), ("tubularadenoma-flat-HE.tiff", 9000, 8000)):
        path = real_slide(name)
        with open_slide(path, mpp=0.5) as slide:
            assert slide.reader == "native"
            region = slide.read(slide.plan(0.5), x, y, 700, 600)
        np.testing.assert_array_equal(region, openslide_pixels(path, x, y, 700, 600))
