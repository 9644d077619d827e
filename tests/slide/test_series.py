"""Which of a TIFF's directories are the slide and its levels: what the file says, then pixels; sizes never alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.cli.test_cli import wsivit_
from wsivit import TileStore, info, open_slide, tile
from wsivit.errors import ScaleError, SlideError, UsageError
from wsivit.slide import Slide
from wsivit.slide.metadata import ome_images
from wsivit.tiling import TileOptions

Picture = NDArray[np.uint8]
TILE = 64


def scene(seed: int, width: int, height: int) -> Picture:
    """Pink and violet structures of several sizes on bright ground, other ones for each seed."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width))
    shape = sum(ndimage.gaussian_filter(noise, sigma) * sigma for sigma in (1.5, 4, 10))
    dark = np.clip(90 * shape / shape.std() - 20, 0, 150)[..., None]
    return np.rint(np.array([240, 235, 240]) - dark * np.array([0.4, 1.0, 0.6])).astype(np.uint8)


def smaller(picture: Picture, factor: int) -> Picture:
    """The mean of whole squares of pixels."""
    height, width = (side // factor for side in picture.shape[:2])
    squares = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return np.ascontiguousarray(np.rint(squares.mean((1, 3))).astype(np.uint8))


A, B = scene(1, 1024, 896), scene(2, 1024, 896)
SMALL_B = scene(3, 512, 448)  # exactly half of A


def scale(mpp: float) -> dict[str, Any]:
    return {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}


def ome(name: str, mpp: float = 0.5, axes: str = "YXS") -> dict[str, Any]:
    sizes = {f"PhysicalSize{axis}": mpp for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    return {"axes": axes, "Name": name, **sizes}


def write_ome(path: Path, scenes: Sequence[tuple[str, Picture, float]], levels: int = 0, **how: Any) -> Path:
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "deflate"} | how
    with tifffile.TiffWriter(path, ome=True, bigtiff=how.pop("bigtiff", False)) as tiff:
        options.pop("bigtiff", None)
        for name, picture, mpp in scenes:
            tiff.write(picture, subifds=levels, metadata=ome(name, mpp), **options, **scale(mpp))
            for level in range(1, levels + 1):
                tiff.write(smaller(picture, 2**level), subfiletype=1, **options)
    return path


def write_chain(path: Path, pictures: Sequence[tuple[Picture, int | None, float]], **how: Any) -> Path:
    """Write directories one after another: pixels, NewSubfileType, scale."""
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "deflate", "metadata": None} | how
    with tifffile.TiffWriter(path) as tiff:
        for picture, kind, mpp in pictures:
            tiff.write(picture, subfiletype=kind or 0, **options, **scale(mpp))
    return path


def assert_shows(slide: Slide, picture: Picture, mpp: float, levels: Sequence[int], loss: float = 0.6) -> None:
    """Compare size, scale and, at each level's far end and near its corner, the pixels."""
    height, width = picture.shape[:2]
    assert slide.dimensions == (width, height)
    assert (slide.scale.mpp_x, slide.scale.mpp_y) == pytest.approx((mpp, mpp))
    assert [round(level.downsample_x) for level in slide.levels] == list(levels)
    for factor in levels:
        expected = smaller(picture, factor)
        plan = slide.plan(mpp * factor, tolerance=0.01)
        assert slide.levels[plan.level].downsample_x == pytest.approx(factor, rel=2 / expected.shape[1])
        size = min(100, *(side for side in expected.shape[:2]))
        for x, y in product((0, plan.width - size), (0, plan.height - size)):
            found = slide.read(plan, x, y, size, size).astype(int)
            assert np.abs(found - expected[y : y + size, x : x + size]).mean() < loss, (factor, x, y)


# --- scenes


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("other", [SMALL_B, scene(4, 256, 224), B[:700]], ids=("half", "quarter", "cut"))
@pytest.mark.parametrize("slide_first", [True, False])
def test_two_scenes_are_never_mixed(tmp_path: Path, levels: int, other: Picture, slide_first: bool) -> None:
    scenes = [("Scene #1", A, 0.5), ("Scene #2", other, 0.25)]
    path = write_ome(tmp_path / "a.ome.tif", scenes if slide_first else scenes[::-1], levels)
    factors = [2**level for level in range(levels + 1)]
    with open_slide(path) as slide:
        assert_shows(slide, A, 0.5, factors)
    for name in ("Scene #2", str(int(slide_first)), int(slide_first)):
        with open_slide(path, scene=name) as slide:
            assert_shows(slide, other, 0.25, factors)


@pytest.mark.parametrize(("compression", "big"), [("jpeg", True), ("zstd", False), ("none", False)])
def test_scenes_of_one_size_in_every_compression(tmp_path: Path, compression: str, big: bool) -> None:
    path = write_ome(
        tmp_path / "a.ome.tif", [("one", A, 0.5), ("two", B, 0.5)], 1, compression=compression, bigtiff=big
    )
    for name, picture in (("one", A), ("two", B)):
        with open_slide(path, scene=name) as slide:
            assert slide.reader == "native"
            assert_shows(slide, picture, 0.5, [1, 2], loss=4.0 if compression == "jpeg" else 0.6)


@pytest.mark.parametrize("marked", [True, False])
def test_pyramids_one_after_another_without_any_metadata(tmp_path: Path, marked: bool) -> None:
    def pyramid(picture: Picture) -> list[tuple[Picture, int, float]]:
        return [(smaller(picture, k), int(marked and k > 1), 0.5 * k) for k in (1, 2, 4)]

    path = write_chain(tmp_path / "a.tif", pyramid(SMALL_B) + pyramid(A) + pyramid(B))
    with open_slide(path) as slide:
        assert_shows(slide, A, 0.5, [1, 2, 4])
        assert [(other.width, other.height) for other in info(path).others] == [(512, 448), (1024, 896)]
    with open_slide(path, scene=2) as slide:
        assert_shows(slide, B, 0.5, [1, 2, 4])
    with open_slide(path, scene=0) as slide:
        assert_shows(slide, SMALL_B, 0.5, [1, 2, 4])


@pytest.mark.parametrize("scene", [7, "label", "Scene #9"])
def test_a_scene_that_is_not_there_is_wrong_use_and_not_damage(tmp_path: Path, scene: int | str) -> None:
    path = write_ome(tmp_path / "a.ome.tif", [("Scene #1", A, 0.5), ("Scene #2", SMALL_B, 0.25)])
    with pytest.raises(UsageError, match=rf"there is no picture '{scene}'.*Scene #2") as told:
        open_slide(path, scene=scene)
    assert "not a TIFF" not in str(told.value)


@pytest.mark.parametrize("how", ["scene", "jpeg", "planes", "strips", "tiffslide"])
def test_a_copy_in_another_process_repeats_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path, picture, loss, options = tmp_path / "a.tif", A, 0.6, {}
    if how == "scene":
        write_ome(path, [("one", B, 0.5), ("two", A, 0.5)], levels=2, compression="zstd")
        options = {"scene": "two"}
    elif how == "planes":
        kind: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "minisblack", "compression": "deflate"}
        named = ome("one", axes="CYX") | {"Channel": {"Name": ["Red", "Green", "Blue"]}}
        with tifffile.TiffWriter(path, ome=True) as tiff:
            planes = [np.ascontiguousarray(np.moveaxis(smaller(A, k), -1, 0)) for k in (1, 2, 4)]
            tiff.write(planes[0], subifds=2, metadata=named, **kind)
            for level in planes[1:]:
                tiff.write(level, subfiletype=1, **kind)
    elif how == "strips":
        write_chain(path, [(A, 0, 0.5), (B[:500], 0, 0.5)], tile=None)
    else:
        write_chain(path, [(smaller(A, k), int(k > 1), 0.5 * k) for k in (1, 2, 4)], compression="jpeg")
        loss, options = 5.0, {"reader": "tiffslide"} if how == "tiffslide" else {}
    factors = [1] if how == "strips" else [1, 2, 4]
    with open_slide(path, **options) as slide:
        assert_shows(slide, picture, 0.5, factors, loss)
        sent = pickle.dumps(slide)
    with monkeypatch.context() as only_here:
        only_here.setattr("wsivit.slide.tiff_layout.Series", None)
        only_here.setattr("wsivit.slide.select_reader._difference", None)
        with pickle.loads(sent) as copy:
            assert_shows(copy, picture, 0.5, factors, loss)
            assert copy._backend.facts == slide._backend.facts
            assert copy.reader_reason == slide.reader_reason
    write_chain(path, [(SMALL_B, 0, 0.25)])  # another file by now: nothing known of the first holds
    if how != "scene":
        with pickle.loads(sent) as copy:
            assert_shows(copy, SMALL_B, 0.25, [1])


def test_a_scene_stays_chosen_in_other_processes_and_in_stores(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", [("Scene #1", A, 0.5), ("Scene #2", SMALL_B, 0.5)])
    with open_slide(path, scene="Scene #2") as slide:
        assert slide.open_options == {"reader": "native", "mpp": None, "jpeg_color": "auto", "scene": 1}
        assert pickle.loads(pickle.dumps(slide)).dimensions == (512, 448)
        store = tile(slide, tmp_path / "two", TileOptions(mpp=0.5, tile_size=64, tissue="none", codec="none")).store
    with open_slide(path, scene=1, subprocess=True) as slide:
        assert_shows(slide, SMALL_B, 0.5, [1])
        assert slide.warnings
        assert slide.open_options["scene"] == 1
    read = TileStore(store.path)
    for index in (0, len(read) - 1):
        x, y = int(read.col[index]) * 64, int(read.row[index]) * 64
        np.testing.assert_array_equal(read[index], SMALL_B[y : y + 64, x : x + 64])


def test_the_command_line_names_every_picture_and_takes_any(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", [("Scene #1", A, 0.5), ("Jane Doe", SMALL_B, 0.25)])
    told = wsivit_("info", path)
    assert "picture      1: picture, 512 x 448 px, not read; --scene 1 takes it" in told.stdout
    assert "warning      the file holds other large pictures, which are not read: 1, 512x448" in told.stdout
    assert "Jane" not in told.stdout
    assert "'Jane Doe'" in wsivit_("info", path, "--private").stdout
    for words in (["--scene", "1"], ["--series", "1"], ["--series=Jane Doe"]):
        found = json.loads(wsivit_("info", path, "--json", *words).stdout)
        assert (found["dimensions"], found["scene"], found["scale"]["mpp_x"]) == ([512, 448], 1, 0.25)
    tiled = wsivit_("tile", path, "-o", tmp_path, "--tissue", "none", "--tile-size", 64)
    assert "other large pictures" in tiled.stderr
    assert "Jane" not in tiled.stderr
    assert TileStore(tmp_path / "a.zarr").parameters.open_options["scene"] == 0
    wrong = wsivit_("info", path, "--scene", "7")
    assert wrong.returncode == UsageError.exit_code
    assert "0 'Scene #1', 1024x896; 1, 512x448" in wrong.stderr


def test_labels_are_not_slides_and_are_never_read(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", [("label", A, 0.5), ("Slide", SMALL_B, 0.25), ("macro", B, 8.0)])
    with open_slide(path) as slide:
        assert_shows(slide, SMALL_B, 0.25, [1])
        assert slide.warnings == ()
    with pytest.raises(UsageError, match="may name a patient"):
        open_slide(path, scene="label")
    assert set(info(path).private) >= {"image: label", "image: macro"}


# --- order


@pytest.mark.parametrize("stored", [{"tile": (TILE, TILE)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_a_small_picture_first_is_not_the_slide(
    tmp_path: Path, stored: dict[str, Any], kind: int, compression: str
) -> None:
    path = tmp_path / "a.tif"
    how = {"photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(smaller(A, 8), subfiletype=kind, **stored, **how, **scale(4.0))
        tiff.write(A, tile=(TILE, TILE), **how, **scale(0.5))
        tiff.write(smaller(A, 2), tile=(TILE, TILE), subfiletype=1, **how, **scale(1.0))
    with open_slide(path) as slide:
        assert_shows(slide, A, 0.5, [1, 2, 8] if "tile" in stored else [1, 2])
    with pytest.raises(SlideError, match=r"takes another picture of|cannot read it"):
        open_slide(path, reader="openslide")
    with pytest.raises(SlideError, match=r"takes another picture of"):
        open_slide(path, reader="tiffslide")


@pytest.mark.parametrize("order", [(8, 4, 2, 1), (2, 1, 8, 4), (1, 8, 2, 4)])
@pytest.mark.parametrize("marked", [True, False])
def test_levels_in_any_order(tmp_path: Path, order: tuple[int, ...], marked: bool) -> None:
    pictures = [(smaller(A, k), int(marked and k > 1), 0.5 * k) for k in order]
    with open_slide(write_chain(tmp_path / "a.tif", pictures)) as slide:
        assert_shows(slide, A, 0.5, [1, 2, 4, 8])


def test_a_slide_in_strips_behind_a_tiled_thumbnail(tmp_path: Path) -> None:
    how = {"photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(smaller(A, 4), tile=(TILE, TILE), **how, **scale(2.0))
        tiff.write(A, rowsperstrip=16, **how, **scale(0.5))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.reader == "image"
        assert_shows(slide, A, 0.5, [1])


def test_a_full_picture_below_a_small_one(tmp_path: Path) -> None:
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(smaller(A, 4), subfiletype=1, subifds=2, **options, **scale(2.0))
        tiff.write(A, subfiletype=0, **options, **scale(0.5))
        tiff.write(SMALL_B, subfiletype=0, **options, **scale(0.5))
    with open_slide(tmp_path / "a.tif") as slide:
        assert_shows(slide, A, 0.5, [1, 4])
        assert [(other.width, other.height) for other in slide.info().others] == [(512, 448)]


# --- levels


@pytest.mark.parametrize(
    ("size", "factors"), [((1000, 900), (2,)), ((1155, 620), (2, 4, 8)), ((700, 1030), (4, 16)), ((700, 1030), (3, 9))]
)
@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_levels_padded_to_whole_tiles_keep_their_scale(
    tmp_path: Path, size: tuple[int, int], factors: tuple[int, ...], compression: str
) -> None:
    picture = scene(9, *size)
    pictures = [(picture, 0, 0.25)]
    for factor in factors:
        level = smaller(picture, factor)
        sides = [(0, -side % TILE) for side in level.shape[:2]]
        pictures.append((np.pad(level, [*sides, (0, 0)], constant_values=255), 1, 0.25 * factor))
    with open_slide(write_chain(tmp_path / "a.tif", pictures, compression=compression)) as slide:
        assert slide.reader == "native"
        for level, factor in zip(slide.levels[1:], factors, strict=True):
            assert (level.width, level.height) == (size[0] // factor, size[1] // factor)
            assert (level.downsample_x, level.downsample_y) == pytest.approx((factor, factor), rel=2 / level.height)
        assert_shows(slide, picture, 0.25, [1, *factors], loss=8.0 if compression == "jpeg" else 0.6)


def test_a_level_of_whole_tiles_that_was_stretched_has_the_ratio_of_the_sizes(tmp_path: Path) -> None:
    picture = scene(9, 1010, 1010)
    stretched = np.asarray(Image.fromarray(picture).resize((512, 512), Image.Resampling.BOX))
    with open_slide(write_chain(tmp_path / "a.tif", [(picture, 0, 0.5), (stretched, 1, 1.0)])) as slide:
        assert (slide.levels[1].width, slide.levels[1].downsample_x) == (512, 1010 / 512)
        assert "the same pixels as OpenSlide" in slide.reader_reason


@pytest.mark.parametrize("blank", [False, True])
def test_a_picture_of_a_levels_size_that_shows_something_else_is_no_level(tmp_path: Path, blank: bool) -> None:
    other = np.full_like(SMALL_B, 255) if blank else SMALL_B
    path = write_chain(tmp_path / "a.tif", [(A, 0, 0.5), (other, 1, 1.0), (smaller(A, 4), 1, 2.0)])
    with open_slide(path) as slide:
        assert slide.reader == "native", slide.reader_reason
        assert_shows(slide, A, 0.5, [1, 4])


# --- colours apart


@pytest.mark.parametrize("compression", ["lzw", "jpeg", "deflate", "zstd"])
@pytest.mark.parametrize("named", [True, False])
def test_three_grey_planes_are_red_green_and_blue(tmp_path: Path, compression: str, named: bool) -> None:
    path = tmp_path / "a.ome.tif"
    how = {"tile": (TILE, TILE), "photometric": "minisblack", "compression": compression}
    channels = {"Channel": {"Name": ["Red", "Green", "Blue"]}} if named else {}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        planes = [np.ascontiguousarray(np.moveaxis(smaller(A, k), -1, 0)) for k in (1, 2)]
        tiff.write(planes[0], subifds=1, metadata=ome("Slide", axes="CYX") | channels, **how)
        tiff.write(planes[1], subfiletype=1, **how)
    with open_slide(path) as slide:
        assert (slide.reader, slide.format, slide.scale.source) == ("native", "ome-tiff", "ome.PhysicalSize")
        assert_shows(slide, A, 0.5, [1, 2], loss=4.0 if compression == "jpeg" else 0.6)
        assert any("no names" in warning for warning in slide.warnings) is not named


@pytest.mark.parametrize("size", [(132, 68), (68, 132), (68, 68)])
def test_padding_of_tiles_does_not_make_a_picture_dark(tmp_path: Path, size: tuple[int, int]) -> None:
    """Of unnamed planes only bright ones are a stain; the last tiles are black where the picture has ended."""
    picture = np.full((3, size[1], size[0]), 150, np.uint8)
    picture[:, ::7, ::5] = 140
    how = {"photometric": "minisblack", "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.ome.tif", picture, ome=True, metadata=ome("", axes="CYX"), **how)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert any("no names" in warning for warning in slide.warnings)
        np.testing.assert_array_equal(slide.read(slide.plan(0.5), 0, 0, *size), np.moveaxis(picture, 0, -1))


@pytest.mark.parametrize("compression", ["lzw", "jpeg"])
@pytest.mark.parametrize("stored", [{"tile": (TILE, TILE)}, {"rowsperstrip": 896}])
def test_planar_pictures_keep_scale_and_format(tmp_path: Path, compression: str, stored: dict[str, Any]) -> None:
    path = tmp_path / "a.ome.tif"
    how = {"photometric": "rgb", "planarconfig": "separate", "compression": compression, **stored}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        planes = [np.ascontiguousarray(np.moveaxis(smaller(A, k), -1, 0)) for k in (1, 2)]
        tiff.write(planes[0], subifds=1, metadata=ome("Slide", axes="SYX"), **how)
        tiff.write(planes[1], subfiletype=1, **how)
    with open_slide(path) as slide:
        assert (slide.format, slide.scale.source) == ("ome-tiff", "ome.PhysicalSize")
        assert_shows(slide, A, 0.5, [1, 2] if "tile" in stored else [1], loss=4.0 if compression == "jpeg" else 0.6)


FLUORESCENT = {"Channel": {"Name": ["DAPI", "FITC", "Cy5"]}}


@pytest.mark.parametrize(
    ("shape", "kind", "axes", "channels", "words"),
    [
        ((3, 128, 128), np.uint8, "CYX", FLUORESCENT, "fluorescence"),
        ((3, 128, 128), np.uint8, "CYX", {}, "dark ground"),
        ((4, 128, 128), np.uint8, "CYX", {}, "4 grey planes"),
        ((3, 128, 128), np.uint16, "CYX", {}, "16-bit"),
        ((128, 128, 3), np.uint16, "YXS", {}, "16-bit"),
        ((5, 128, 128), np.uint8, "ZYX", {}, None),
    ],
)
def test_what_is_no_picture_of_a_stain_is_refused(
    tmp_path: Path, shape: tuple[int, ...], kind: type, axes: str, channels: dict[str, Any], words: str | None
) -> None:
    path = tmp_path / "a.ome.tif"
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    data = np.full(shape, 9, kind)
    tifffile.imwrite(path, data, tile=(64, 64), photometric=photometric, metadata=ome("a", axes=axes) | channels)
    if words is None:
        with open_slide(path) as slide:
            assert any("5 focal planes: the first is read" in warning for warning in slide.warnings)
        return
    with pytest.raises(SlideError, match=words):
        open_slide(path)


def test_a_larger_picture_that_cannot_be_read_names_those_that_can(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    how = {"tile": (TILE, TILE), "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(
            np.zeros((2, 1024, 1024), np.uint16), photometric="minisblack", metadata=ome("IF", axes="CYX"), **how
        )
        tiff.write(SMALL_B, photometric="rgb", metadata=ome("Scene 2"), **how)
    with pytest.raises(SlideError, match=r"16-bit grey is not supported.*1 'Scene 2', 512x448: take one with --scene"):
        open_slide(path)
    with open_slide(path, scene=1) as slide:
        assert_shows(slide, SMALL_B, 0.5, [1])


def test_focal_planes_of_one_picture_are_not_scenes(tmp_path: Path) -> None:
    stack = np.stack([A, B, A])
    how = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "deflate"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata=ome("a", axes="ZYXS"), **how)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert_shows(slide, A, 0.5, [1])
        assert "3 focal planes: the first is read" in slide.warnings[0]
        assert slide.info().others == ()


# --- what the XML says


def xml(quote: str, unit: str, attributes: str = "") -> str:
    units = "".join(f" PhysicalSize{axis}Unit={quote}{unit}{quote}" for axis in "XY") if unit else ""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="1024" SizeY="896"'
        ' SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.25" PhysicalSizeY="0.25"><Channel ID="C:0"'
        ' SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
    return text.replace('"0.25">', f'"0.25"{units.replace(quote, chr(34))}>').replace('"', quote)


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("unit", ["µm", "&#181;m", "&#xB5;m", "μm", "", "micron"])
def test_ome_xml_in_every_spelling(tmp_path: Path, quote: str, unit: str) -> None:
    path = write_chain(tmp_path / "a.ome.tif", [(A, 0, 1.0)], description=xml(quote, unit).encode())
    with open_slide(path) as slide:
        assert (slide.scale.mpp_x, slide.scale.source) == (0.25, "ome.PhysicalSize")


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "nm"])
def test_ome_units_that_are_no_length_of_a_pixel(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, A, tile=(64, 64), photometric="rgb", metadata=None, description=xml('"', unit).encode())
    with open_slide(path) as slide, pytest.raises(ScaleError, match=r"ome\.PhysicalSize: '0\.25'"):
        _ = slide.scale


@pytest.mark.parametrize(
    "text", ["<OME><Image></OME>", '<!DOCTYPE a [<!ENTITY b "c">]><OME><Image Name="&b;"/></OME>', "<OME"]
)
def test_ome_xml_that_cannot_be_trusted_is_not_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be parsed"):
        ome_images(text, 1)


def test_ome_xml_of_another_picture_gives_no_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    text = xml('"', "µm").replace('SizeX="1024"', 'SizeX="4096"')
    tifffile.imwrite(path, A, tile=(64, 64), photometric="rgb", metadata=None, description=text.encode())
    with open_slide(path) as slide, pytest.raises(ScaleError, match="does not describe this picture"):
        _ = slide.scale


def test_colours_that_the_xml_counts_as_channels(tmp_path: Path) -> None:
    text = xml('"', "µm").replace(' SamplesPerPixel="3"', "").replace('IFD="0" PlaneCount="1"', "")
    with open_slide(write_chain(tmp_path / "a.ome.tif", [(A, 0, 1.0)], description=text.encode())) as slide:
        assert_shows(slide, A, 0.25, [1])


@pytest.mark.parametrize(
    ("unit", "per", "mpp"), [("micron", 2, 0.5), ("um", 4, 0.25), ("\\u00B5m", 2, 0.5), ("mm", 2000, 0.5)]
)
def test_imagejs_calibration_is_a_scale(tmp_path: Path, unit: str, per: float, mpp: float) -> None:
    text = f"ImageJ=1.53t\nunit={unit}\nmin=0.0\nmax=255.0\n"
    how = {"photometric": "rgb", "metadata": None, "description": text}
    tifffile.imwrite(tmp_path / "a.tif", A, resolution=(per, per), resolutionunit="NONE", **how)
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.scale.mpp_x, slide.scale.source) == (mpp, "imagej.PixelSize")
    tifffile.imwrite(
        tmp_path / "b.tif",
        A,
        resolution=(per, per),
        resolutionunit="NONE",
        **how | {"description": text.replace(unit, "pixel")},
    )
    with open_slide(tmp_path / "b.tif") as slide, pytest.raises(ScaleError, match="pixel"):
        _ = slide.scale
