"""Each form of export, read back by something else than what wrote it."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shapely.geometry import shape
from support.heatmap_helpers import make_store

from wsivit.errors import OutputExistsError, SlideNotFoundError, UsageError
from wsivit.heatmap import AggregateOptions, CellStatus, Format, HeatmapOptions, aggregate, export, heatmap, stitch
from wsivit.heatmap.export import export_formats
from wsivit.heatmap.geojson import merged_regions
from wsivit.slide.grid import TileGrid
from wsivit.store import TileStore
from wsivit.tiling.annotations import label_tiles, read_annotations

SMALL = HeatmapOptions(size=400)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return make_store(tmp_path_factory.mktemp("stores") / "S1.zarr", unreadable=[20])


def ring(x: Any, y: Any) -> Any:
    """A ring of 0.95 round (2000, 1500), 500 to 1200 level-0 pixels from it."""
    distance = np.hypot(x - 2000, y - 1500)
    return np.where((distance > 500) & (distance < 1200), 0.95, 0.02)


def test_every_format_has_its_writer() -> None:
    assert list(export_formats()) == list(get_args(Format))


def test_names_and_places(store: TileStore, tmp_path: Path) -> None:
    assert export(store, "csv") == store.path.parent / "S1-run-1.csv"
    assert export(store, "regions", tmp_path) == tmp_path / "S1-run-1-tumor-regions.geojson"
    assert export(store, "geojson", tmp_path / "a" / "b.geojson.gz").is_file()
    with pytest.raises(UsageError, match="unknown export format pdf; choose from png"):
        export(store, "pdf")  # type: ignore[arg-type]
    with pytest.raises(OutputExistsError, match="is a folder"):
        export(store, "csv", store.path)


@pytest.mark.parametrize("format", get_args(Format))
def test_an_option_that_changes_nothing_is_refused_and_all_others_change_the_file(
    tmp_path: Path, format: Format
) -> None:
    store = make_store(
        tmp_path / "S.zarr", size0=(1024, 1024), tile=64, overlap=32, field=lambda x, y: x / 1024, pixels=True
    )
    with store.features_writer("uni", (4,), {}) as writer:
        for block in writer.pending():
            writer.write(block, np.ones((len(block), 4), np.float16))
        writer.finish()
    found = store.predictions("run-1")
    store.write_predictions("run-1", replace(found, attrs={"trained_on": [[0, 40]]}))
    store = TileStore(store.path)
    changes = {
        "class_name": "normal", "threshold": 0.3, "window": "max", "smoothing": 50.0, "cmap": "magma", "alpha": 0.8,
        "vmin": 0.2, "vmax": 0.7, "size": 300, "interpolation": "nearest", "encoder": "uni", "hatch_trained": True,
    }  # fmt: skip
    assert set(changes) == {field.name for field in fields(HeatmapOptions)}

    used = export_formats()[format].options.split()
    usual = HeatmapOptions(size=250) if "size" in used else HeatmapOptions()

    def content(options: HeatmapOptions) -> bytes:
        path = Path(export(store, format, options=options))
        if format == "ome-zarr":
            return np.asarray(zarr.open_group(path, mode="r")["0"]).tobytes()
        data = tifffile.imread(path).tobytes() if path.suffix == ".tif" else path.read_bytes()
        path.unlink()
        return data

    before = content(usual)
    for name, value in changes.items():
        options = replace(usual, **{name: value})
        if name not in used:
            with pytest.raises(UsageError, match=f"^{name} makes no difference to {format}: leave it out; it is for "):
                export(store, format, options=options)
            with pytest.raises(UsageError, match=f"^{name} makes no difference to {format}"):
                heatmap(store, formats=[format], options=options)
        else:
            assert content(options) != before or name == "encoder", name  # the store has features of one


def test_options_of_one_class_make_no_difference_to_the_picture_of_three(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", field=ring, classes=("a", "b", "c"))
    with pytest.raises(
        UsageError, match=r"^cmap makes no difference to png of a run with several classes: leave it out"
    ):
        export(store, "png", options=HeatmapOptions(cmap="magma"))
    assert export(store, "png", options=HeatmapOptions(size=300, cmap="magma", class_name="b")).is_file()
    # Of several formats one must use it.
    assert len(heatmap(store, formats=["csv", "regions"], options=HeatmapOptions(threshold=0.4)).paths) == 2


# GeoJSON


def test_tiles_have_their_extent_scores_and_class(store: TileStore, tmp_path: Path) -> None:
    features = json.loads(export(store, "geojson", tmp_path).read_text())["features"]
    assert len(features) == len(store) - 1
    boxes = store.grid.boxes0(store.col, store.row)[np.arange(len(store)) != 20]
    for feature, box in zip(features, boxes, strict=True):
        properties, region = feature["properties"], shape(feature["geometry"])
        assert region.equals(shapely.box(*box))
        assert properties["objectType"] == "tile"
        p = properties["measurements"]
        assert p["normal probability"] + p["tumor probability"] == pytest.approx(1)
        left = region.centroid.x < 2048
        assert p["tumor probability"] == pytest.approx(0.9 if left else 0.1)
        assert properties["classification"]["name"] == ("tumor" if left else "normal")


def test_tiles_are_cut_at_the_slide_and_moved_by_its_bounds(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", size0=(1000, 700), slide_bounds=(100, 50, 600, 500))
    document = json.loads(export(store, "geojson").read_text())
    assert document["wsivit"]["view_origin"] == [100, 50]
    last = shape(document["features"][-1]["geometry"])
    assert last.bounds == (768 - 100, 512 - 50, 1000 - 100, 700 - 50)


def test_gzip_holds_the_same_bytes_every_time(store: TileStore, tmp_path: Path) -> None:
    plain = export(store, "geojson", tmp_path / "a.geojson").read_bytes()
    packed = [export(store, "geojson", tmp_path / f"{k}.geojson.gz").read_bytes() for k in range(2)]
    assert packed[0] == packed[1] and gzip.decompress(packed[0]) == plain


def test_regions_come_back_as_annotations_of_the_same_tiles(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", field=ring, tile=64, slide_bounds=(160, 96, 3000, 2500))
    path = export(store, "regions")
    (annulus,) = read_annotations(path, view_origin=(160, 96))
    assert annulus.name == "tumor"
    assert len(annulus.geometry.interiors) == 1  # the hole is kept
    codes, _ = label_tiles([annulus], store.grid.boxes0(store.col, store.row))
    np.testing.assert_array_equal(codes == 0, store.predictions("run-1").probabilities[:, 1] >= 0.5)
    properties = json.loads(path.read_text())["features"][0]["properties"]
    assert properties["objectType"] == "annotation"
    area = np.pi * (1200**2 - 500**2) * 0.25**2 / 1e6
    assert properties["measurements"]["Area mm^2"] == pytest.approx(area, rel=0.03)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 0.9))
@settings(max_examples=80, deadline=None)
def test_regions_are_valid_apart_and_just_the_cells(seed: int, width: int, height: int, share: float) -> None:
    over = np.random.default_rng(seed).random((height, width)) < share
    grid = TileGrid(10, 0, width * 10, height * 10, 3.9998, 4.0002)
    col, row = grid.cells()
    scores = stitch(grid, col, row, np.where(over, 0.8, 0.2).reshape(-1, 1))
    regions = merged_regions(scores, 0, 0.5)
    assert all(region.is_valid and region.geom_type == "Polygon" for region in regions)
    whole = shapely.union_all(regions)
    assert whole.area == pytest.approx(sum(region.area for region in regions))
    x, y = (col + 0.5) * 10 * 3.9998, (row + 0.5) * 10 * 4.0002
    np.testing.assert_array_equal(shapely.contains_xy(whole, x, y), over.ravel())
    assert (np.diff([region.area for region in regions]) <= 0).all()


def test_regions_of_every_class_where_there_are_three(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", field=ring, classes=("a", "b", "c"))
    path = export(store, "regions", options=HeatmapOptions(threshold=0.4))
    assert path.name == "S-run-1-regions.geojson"
    names = {f["properties"]["classification"]["name"] for f in json.loads(path.read_text())["features"]}
    assert names == {"a", "b", "c"}


def test_nothing_over_the_threshold_is_an_empty_collection(store: TileStore, tmp_path: Path) -> None:
    path = export(store, "regions", tmp_path, options=HeatmapOptions(threshold=0.99))
    assert json.loads(path.read_text())["features"] == []


# Images


def test_ome_tiff_is_a_pyramid_with_names_scale_and_place(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", tile=16, overlap=8, downsample=2.0, unreadable=[7])
    path = export(store, "ome-tiff")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome and tiff.is_bigtiff is False
        assert [level.shape for level in tiff.series[0].levels] == [(5, 192, 256)]
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        bands = tiff.series[0].asarray()
        assert tiff.pages[0].compression.name == "ADOBE_DEFLATE"
    assert [c["Name"] for c in pixels["Channel"]] == ["normal", "tumor", "coverage", "uncertainty", "status"]
    assert pixels["PhysicalSizeX"] == pixels["PhysicalSizeY"] == 8 * 2 * 0.25
    assert pixels["Plane"][0]["PositionX"] == pytest.approx((16 - 1) / 2 * 0.25)
    assert bands.dtype == np.float32
    assert set(np.unique(bands[4])) == {CellStatus.OK, CellStatus.UNREADABLE}
    assert bands[3, 100, 10] == pytest.approx(-(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1)), abs=1e-5)


def test_large_grids_have_levels_that_average_what_is_known(tmp_path: Path) -> None:
    field = np.random.default_rng(0)
    store = make_store(
        tmp_path / "S.zarr", size0=(6000, 4000), tile=16, downsample=1.0, field=lambda x, y: field.random(len(x))
    )
    with tifffile.TiffFile(export(store, "ome-tiff")) as tiff:
        full, half = (level.asarray() for level in tiff.series[0].levels)
    assert full.shape == (5, 250, 375) and half.shape == (5, 125, 188)
    np.testing.assert_allclose(half[1, 10, 20], full[1, 20:22, 40:42].mean(), rtol=1e-6)


def test_overlay_is_rgba_over_the_whole_slide(store: TileStore, tmp_path: Path) -> None:
    path = export(store, "overlay", tmp_path, options=HeatmapOptions(size=512, alpha=0.4))
    with tifffile.TiffFile(path) as tiff:
        rgba = tiff.asarray()
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert tiff.pages[0].extrasamples == (2,)
    assert rgba.shape == (384, 512, 4)
    assert pixels["PhysicalSizeX"] == 8 * 0.25
    assert set(np.unique(rgba[..., 3])) == {0, 102}
    assert (rgba[40:60, 4 * 32 + 4 : 5 * 32 - 4, 3] == 0).all()  # the unreadable tile
    red, blue = rgba[200, 100].astype(int), rgba[200, 400].astype(int)
    assert red[0] > red[2] and blue[2] > blue[0]


def test_ome_zarr_is_valid_and_says_where_it_lies(store: TileStore, tmp_path: Path) -> None:
    from ome_zarr_models.v05 import Image as OmeImage

    path = export(store, "ome-zarr", tmp_path)
    image = OmeImage.from_zarr(zarr.open_group(path, mode="r"))
    (dataset,) = image.ome_attributes.multiscales[0].datasets
    scale, translation = dataset.coordinateTransformations
    assert scale.scale == [1, 64, 64] and translation.translation == [0, 31.875, 31.875]
    bands = zarr.open_group(path, mode="r")["0"][...]
    np.testing.assert_array_equal(bands, tifffile.imread(export(store, "ome-tiff", tmp_path)))
    export(store, "ome-zarr", tmp_path)  # replaces itself
    labels = [channel["label"] for channel in zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"]]
    assert labels == ["normal", "tumor", "coverage", "uncertainty", "status"]


def test_ome_zarr_never_takes_the_place_of_a_tile_store(store: TileStore, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="not an export of scores"):
        export(store, "ome-zarr", store.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.ome.zarr").write_text("x")
    with pytest.raises(OutputExistsError):
        export(store, "ome-zarr", tmp_path / "mine.ome.zarr")
    assert len(TileStore(store.path)) == len(store)


@pytest.mark.parametrize("form", ["argmax", "side-by-side", "uncertainty"])
def test_further_pictures(tmp_path: Path, form: Format) -> None:
    store = make_store(tmp_path / "S.zarr", field=ring, classes=("a $x$", "b", "c"))
    with Image.open(export(store, form, options=SMALL)) as image:
        assert image.width > (800 if form == "side-by-side" else 400)


def test_argmax_is_the_picture_of_three_classes(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", field=ring, classes=("a", "b", "c"))
    assert export(store, "png", options=SMALL).read_bytes() == export(store, "argmax", options=SMALL).read_bytes()


def test_contact_sheet_shows_the_highest_and_the_lowest_tiles(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", size0=(1000, 1000), field=lambda x, y: x / 1000, pixels=True)
    sheet = np.asarray(Image.open(export(store, "contact")))
    first, last = sheet[56 + 56 + 100, 100], sheet[(sheet.shape[0] + 56) // 2 + 56 + 100, 100]
    assert first[0] > 190 and last[0] < 60  # the store's tiles are as bright as they lie right
    with pytest.raises(SlideNotFoundError):
        export(make_store(tmp_path / "none.zarr"), "contact")


# Tables


def test_csv_has_the_columns_of_wsinfer(store: TileStore, tmp_path: Path) -> None:
    with export(store, "csv", tmp_path).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["minx", "miny", "width", "height", "prob_normal", "prob_tumor"]
    assert len(rows) == len(store) - 1
    assert [int(row["minx"]) for row in rows] == np.delete(store.x0, 20).tolist()
    assert {(row["width"], row["height"]) for row in rows} == {("256", "256")}
    assert float(rows[0]["prob_tumor"]) == pytest.approx(0.9)


def test_h5_has_what_trident_reads(store: TileStore, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(export(store, "h5", tmp_path)) as file:
        assert file["coords"].dtype == np.int64
        np.testing.assert_array_equal(file["coords"][:, 0], store.x0[store.readable])
        attributes = dict(file["coords"].attrs)
        assert attributes["patch_size"] == 128 and attributes["patch_size_level0"] == 256
        assert attributes["level0_magnification"] == 40 and attributes["target_magnification"] == 20
        assert "features" not in file


def test_h5_without_h5py_says_how_to_get_it(store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install \"wsivit\[h5\]\""):
        export(store, "h5", tmp_path)


def test_slide_scores_of_a_cohort_are_one_table(store: TileStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "S2.zarr", field=ring)
    with aggregate([store, other.path], tmp_path / "slide_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["slide_id"], row["class_name"]) for row in rows] == [
        ("S1", "normal"),
        ("S1", "tumor"),
        ("S2", "normal"),
        ("S2", "tumor"),
    ]
    assert float(rows[1]["area_fraction"]) == pytest.approx(0.5, abs=0.01)
    assert float(rows[3]["largest_focus_mm2"]) == pytest.approx(np.pi * (1.2**2 - 0.5**2) / 16, rel=0.1)
    assert {(row["threshold"], row["window"], row["smoothing_um"]) for row in rows} == {("0.5", "hann", "0")}


def test_slide_scores_of_one_class_and_with_thresholds_of_their_own(store: TileStore, tmp_path: Path) -> None:
    options = AggregateOptions(class_name="tumor", thresholds={"tumor": 0.95}, window="uniform", smoothing=30)
    with aggregate([store], tmp_path / "a.csv", options=options).open() as file:
        (row,) = csv.DictReader(file)
    assert (row["class_name"], row["threshold"], row["window"]) == ("tumor", "0.95", "uniform")
    assert float(row["smoothing_um"]) == pytest.approx(30)
    assert float(row["area_fraction"]) == 0
    options = AggregateOptions(thresholds={"tumor": 0.95})
    with aggregate([store], tmp_path / "b.csv", options=options).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class_name"], row["threshold"]) for row in rows] == [("normal", "0.5"), ("tumor", "0.95")]
    assert float(rows[0]["area_fraction"]) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UsageError, match="a threshold for cyst, which is a class of none of the slides"):
        aggregate([store], tmp_path / "c.csv", options=AggregateOptions(thresholds={"cyst": 0.5}))
    with pytest.raises(UsageError, match=r"from 0 to 1"):
        aggregate([store], tmp_path / "c.csv", options=AggregateOptions(thresholds={"tumor": 2}))


# Uncertainty


def with_spread(path: Path) -> TileStore:
    """A store whose tiles were looked at in several views, which are further apart the further right they lie."""
    store = make_store(path, unreadable=[20])
    found = store.predictions("run-1")
    spread = np.repeat((store.x0 / 4096 * 0.4)[:, None], 2, axis=1).astype(np.float32)
    store.write_predictions("run-1", replace(found, spread=spread))
    return store


def test_the_spread_of_views_is_the_uncertainty_in_every_form(tmp_path: Path) -> None:
    store = with_spread(tmp_path / "S.zarr")
    wanted = (store.x0 / 4096 * 0.4).reshape(12, 16).astype(np.float32)
    wanted.flat[20] = np.nan
    with tifffile.TiffFile(export(store, "ome-tiff")) as tiff:
        np.testing.assert_allclose(tiff.asarray()[3], wanted)
        image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        assert json.loads(image["Description"])["uncertainty"] == "spread"
    group = zarr.open_group(export(store, "ome-zarr"), mode="r")
    np.testing.assert_allclose(group["0"][3], wanted)
    assert group.attrs["wsivit"]["uncertainty"] == "spread"
    features = json.loads(export(store, "geojson").read_text())["features"]
    assert features[3]["properties"]["measurements"]["uncertainty"] == pytest.approx(wanted[0, 3])
    assert "uncertainty" not in features[3]["properties"]["classification"]


def test_smoothing_is_noted_in_every_form_and_blurs_the_spread_too(tmp_path: Path) -> None:
    store = with_spread(tmp_path / "S.zarr")
    options = HeatmapOptions(smoothing=100)
    with tifffile.TiffFile(export(store, "ome-tiff", options=options)) as tiff:
        description = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Description"]
        bands = tiff.asarray()
    assert json.loads(description)["smoothing_um"] == pytest.approx(100)
    assert bands[3, 5, 0] > 0 and np.isnan(bands[3, 1, 4])
    attrs = zarr.open_group(export(store, "ome-zarr", options=options), mode="r").attrs["wsivit"]
    assert attrs["smoothing_um"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["spread", "entropy"])
def test_the_picture_of_uncertainty_is_absolute(store: TileStore, tmp_path: Path, kind: str) -> None:
    from matplotlib import colormaps

    shown = with_spread(tmp_path / "S.zarr") if kind == "spread" else store
    options = HeatmapOptions(size=512, alpha=1, interpolation="nearest")
    with Image.open(export(shown, "uncertainty", tmp_path, options=options)) as image:
        frame = json.loads(image.text["wsivit"])
        page = np.asarray(image)
    assert frame["uncertainty"] == kind
    entropy = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    level = entropy if kind == "entropy" else 0.4 * 256 * 8 / 4096 / 0.5
    pixel = page[frame["top"] + 100, frame["left"] + 8 * 32 + 10]
    np.testing.assert_allclose(pixel, np.array(colormaps["viridis"](level)[:3]) * 255, atol=2)


# A round of correction


def test_regions_corrected_in_qupath_come_back_as_labels(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", field=ring, tile=64, slide_bounds=(160, 96, 3000, 2500))
    document = json.loads(export(store, "regions").read_text())
    # What a person does in QuPath: give the found region another class, draw one, move one; QuPath adds its own words.
    (found,) = document["features"]
    found["id"] = "8a5c0f7e-0000-4000-8000-000000000000"
    found["properties"]["classification"] = {"names": ["Tumor", "Invasive"], "color": [200, 0, 0]}
    found["properties"]["isLocked"] = True
    drawn = shapely.box(3200 - 160, 2000 - 96, 3800 - 160, 2600 - 96)
    drawing = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(drawn)),
        "properties": {"objectType": "annotation", "classification": {"name": "Necrosis"}},
    }
    (tmp_path / "edited.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [found, drawing]}))
    regions = read_annotations(tmp_path / "edited.geojson", view_origin=(160, 96))
    codes, classes = label_tiles(regions, store.grid.boxes0(store.col, store.row))
    store.write_labels("corrected", codes, classes)
    column = TileStore(store.path).label("corrected")
    assert column.classes == ("Necrosis", "Tumor: Invasive")
    boxes = store.grid.boxes0(store.col, store.row)
    x, y = boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)
    inside = (x > 3200) & (x < 3800) & (y > 2000) & (y < 2600)
    assert (column.codes[inside] == 0).all()
    np.testing.assert_array_equal(column.codes == 1, store.predictions("run-1").probabilities[:, 1] >= 0.5)


def test_constant_scores_are_constant_in_every_image(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", tile=100, overlap=37, field=lambda x, y: np.full(len(x), 0.3))
    bands = tifffile.imread(export(store, "ome-tiff"))
    assert (bands[1] == np.float32(0.3)).all()
