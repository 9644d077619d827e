"""The sample slide: what two other readers make of it, whether its regions are where its pixels are, determinism."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile
import tiffslide
from numpy.typing import NDArray
from scipy import ndimage

from wsivit.demo import SamplePaths, write_sample_slide
from wsivit.demo.paint import Layout, draw_slide
from wsivit.errors import OutputError, UsageError

SIZE = 2048
KINDS = ("tumor", "stroma")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SamplePaths:
    return write_sample_slide(tmp_path_factory.mktemp("sample"), seed=1, size=SIZE)


@pytest.fixture(scope="module")
def pixels(sample: SamplePaths) -> NDArray[np.uint8]:
    with openslide.OpenSlide(sample.slide) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.fixture(scope="module")
def masks(sample: SamplePaths) -> dict[str, NDArray[np.bool_]]:
    """Whether the centre of every 4 x 4 pixels lies in a region of each kind."""
    y, x = np.mgrid[2:SIZE:4, 2:SIZE:4]
    masks = {kind: np.zeros(x.shape, bool) for kind in KINDS}
    for feature in json.loads(sample.annotations.read_text())["features"]:
        polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
        shapely.prepare(polygon)
        masks[feature["properties"]["classification"]["name"]] |= shapely.contains_xy(polygon, x, y)
    return masks


def test_openslide_and_tiffslide_agree_on_scale_and_levels(sample: SamplePaths) -> None:
    with openslide.OpenSlide(sample.slide) as one, tiffslide.TiffSlide(sample.slide) as two:
        assert one.properties["openslide.vendor"] == "generic-tiff"
        assert [float(one.properties[f"openslide.mpp-{axis}"]) for axis in "xy"] == [0.5, 0.5]
        assert [float(two.properties[f"tiffslide.mpp-{axis}"]) for axis in "xy"] == [0.5, 0.5]
        assert one.level_dimensions == two.level_dimensions == ((2048, 2048), (512, 512))
        box = ((600, 700), 0, (300, 200))
        assert np.array_equal(np.asarray(one.read_region(*box).convert("RGB")), np.asarray(two.read_region(*box)))


def test_is_a_tiled_jpeg_pyramid(sample: SamplePaths) -> None:
    with tifffile.TiffFile(sample.slide) as tiff:
        for level, page in enumerate(tiff.pages):
            assert (page.tilewidth, page.tilelength) == (256, 256)
            assert page.compression == tifffile.COMPRESSION.JPEG
            assert page.photometric == tifffile.PHOTOMETRIC.YCBCR
            assert page.get_resolution("micrometer") == pytest.approx((2 / 4**level,) * 2)
            assert page.is_reduced == (level > 0)


def test_levels_are_area_means(sample: SamplePaths, pixels: NDArray[np.uint8]) -> None:
    level = tifffile.imread(sample.slide, level=1).mean(axis=2)
    means = pixels.reshape(512, 4, 512, 4, 3).mean(axis=(1, 3, 4))
    assert abs((level - means).mean()) < 0.32  # half a step in which JPEG of this quality keeps the mean of even glass
    noise = (level - means).std()
    assert noise < 4.5  # JPEG on both sides
    assert (level - np.roll(means, 1, axis=1)).std() > 3 * noise


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = write_sample_slide(tmp_path / "a", seed=5, size=1024)
    again = write_sample_slide(tmp_path / "b", seed=5, size=1024)
    assert first.slide.read_bytes() == again.slide.read_bytes()
    assert first.annotations.read_bytes() == again.annotations.read_bytes()


def test_another_seed_is_another_slide() -> None:
    slides = [draw_slide(seed, 512) for seed in (1, 2)]
    one, two = (shapely.union_all(layout.regions()["tumor"]) for layout, _ in slides)
    assert one.intersection(two).area < 0.9 * one.union(two).area
    stains = [np.median(picture[picture.min(axis=2) < 200].astype(int), axis=0) for _, picture in slides]
    assert 2 < np.abs(stains[0] - stains[1]).max() < 50  # other staining, modestly


def test_geojson_is_as_qupath_writes_it(sample: SamplePaths) -> None:
    collection = json.loads(sample.annotations.read_text())
    assert collection["type"] == "FeatureCollection"
    assert len({feature["id"] for feature in collection["features"]}) == len(collection["features"])
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] in KINDS
        assert len(feature["properties"]["classification"]["color"]) == 3
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert isinstance(shape, shapely.Polygon)
        assert shape.is_valid
        assert shapely.box(0, 0, SIZE, SIZE).contains(shape)


def test_regions_lie_where_the_tissue_is(masks: dict[str, NDArray[np.bool_]], pixels: NDArray[np.uint8]) -> None:
    tumor, stroma = (masks[kind] for kind in KINDS)
    assert not (tumor & stroma).any()
    assert 0.3 < tumor.sum() / (tumor | stroma).sum() < 0.7
    stained = ndimage.uniform_filter((pixels.min(axis=2) < 215).astype(np.float32), 9)[2::4, 2::4] > 0.5
    labelled = tumor | stroma
    assert stained[labelled].mean() > 0.93  # the rest is slits between the fibres
    assert labelled[stained].mean() > 0.9  # the rest is pen, dust and the fringe


def test_tumor_has_the_large_crowded_nuclei(masks: dict[str, NDArray[np.bool_]], pixels: NDArray[np.uint8]) -> None:
    labels, count = ndimage.label(ndimage.binary_opening(pixels[..., 0] < 150, iterations=6))
    centres = np.rint(ndimage.center_of_mass(labels > 0, labels, np.arange(1, count + 1))).astype(int)
    crowding = {kind: mask[tuple(centres.T // 4)].sum() / mask.sum() for kind, mask in masks.items()}
    assert crowding["tumor"] > 2 * crowding["stroma"] > 0


def test_has_a_pen_mark_and_a_fold() -> None:
    layout, picture = draw_slide(3, 1024)
    red, green, _ = np.moveaxis(picture.astype(int), 2, 0)
    pen, fold = (layout.block(name, 0, 0, 1024, 1024) for name in ("pen", "fold"))
    # No mixture of hematoxylin and eosin is greener than red; all but the darkest pixels under the pen are.
    assert (green > red)[pen > 8].mean() > 0.999
    assert (green - red > 6)[pen < -12].mean() < 1e-3
    tissue = (layout.block("tissue", 0, 0, 1024, 1024) > 10) & (pen < -12)
    assert np.median(green[tissue & (fold > 6)]) < 0.75 * np.median(green[tissue & (fold < -6)])


@pytest.mark.parametrize(("seed", "size"), [(1, 1000), (1, 256), (1, 0), (-1, 1024)])
def test_refuses_what_it_cannot_draw(tmp_path: Path, seed: int, size: int) -> None:
    with pytest.raises(UsageError, match=r"(size|seed) must be"):
        write_sample_slide(tmp_path, seed=seed, size=size)
    assert not list(tmp_path.iterdir())


def test_says_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file.*sample-1\.tiff"):
        write_sample_slide(tmp_path / "file", seed=1, size=512)


def test_takes_a_name(tmp_path: Path) -> None:
    paths = write_sample_slide(tmp_path / "new" / "folder", seed=1, size=512, name="slide.v2")
    assert [path.name for path in (paths.slide, paths.annotations)] == ["slide.v2.tiff", "slide.v2.geojson"]
    assert paths.slide.exists()
    assert paths.annotations.exists()


def test_a_field_is_where_its_coordinates_say_and_joins_without_seams() -> None:
    nodes = (np.arange(32) + 0.5) * 8.0
    plane = (3 + 0.5 * nodes[None, :] - 0.25 * nodes[:, None]).astype(np.float32)
    rough = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    layout = Layout(256, {"plane": plane, "rough": rough}, np.empty((0, 3)))
    centres = np.arange(256) + 0.5
    expected = 3 + 0.5 * centres[None, :] - 0.25 * centres[:, None]
    inside = slice(16, -16)  # at its edge the plane is cut off
    assert np.allclose(layout.block("plane", 0, 0, 256, 256)[inside, inside], expected[inside, inside], atol=1e-3)
    assert layout.at("plane", np.array([[20.0, 44.0]])) == plane[5, 2]
    complete = layout.block("rough", 0, 0, 256, 256)
    assert np.allclose(layout.block("rough", 104, 32, 64, 72)[16:-16, 16:-16], complete[48:88, 120:152], atol=1e-3)
