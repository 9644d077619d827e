"""A target printed on a slide comes out where it was printed, in every form of export.

The slide is tiled for real, and the model is one that sees: a tile's score is the share of its pixels that are dark. So
position passes through every step, from the printed pixels to the file that is read back here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import shape
from support.small_slides import write_slide

from wsivit.heatmap import HeatmapOptions, export
from wsivit.slide import Slide
from wsivit.store import Predictions, TileStore
from wsivit.tiling import TileOptions, tile

WIDTH, HEIGHT = 2611, 1907
TARGET, RADIUS = (1731.5, 803.5), 260


@dataclass(frozen=True)
class Case:
    slide_mpp: float
    mpp: float
    size: int
    overlap: int
    bounds: tuple[int, int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.slide_mpp}-{self.mpp}-{self.size}-{self.overlap}{'-bounds' if self.bounds else ''}"


CASES = [
    Case(0.2738, 0.5, 64, 0),
    Case(0.3125, 0.9, 48, 32),
    Case(0.4545, 0.4545, 96, 31),
    Case(0.25, 1.0, 40, 13, bounds=(311, 123, 2100, 1600)),
]


@dataclass(frozen=True)
class Printed:
    store: TileStore
    case: Case
    folder: Path

    @property
    def half_cell(self) -> float:
        """Half a tile stride in level-0 pixels: the worst that may happen."""
        return max(self.store.grid.stride0) / 2


def darkness(store: TileStore) -> NDArray[np.float32]:
    """The model: share of dark pixels, (n, 2)."""
    pixels = store.read(np.arange(len(store))).mean(axis=-1)
    dark = (pixels < 128).mean(axis=(1, 2))
    return np.stack([1 - dark, dark], axis=1).astype(np.float32)


@pytest.fixture(scope="module", params=CASES, ids=str)
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("printed")
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    picture = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    picture[np.hypot(x - TARGET[0], y - TARGET[1]) < RADIUS] = 20
    slide = write_slide(folder / "printed.tiff", picture, mpp=case.slide_mpp)
    options = TileOptions(mpp=case.mpp, tile_size=case.size, overlap=case.overlap, min_tissue=0, tissue="none")
    with pytest.MonkeyPatch.context() as patch:
        if case.bounds:
            patch.setattr(Slide, "bounds", property(lambda self: case.bounds))
        store = tile(slide, folder, options).store
    store.write_predictions("seen", Predictions(darkness(store), ("paper", "target")))
    return Printed(store, case, folder)


def centroid(
    field: NDArray[np.floating], scale: tuple[float, float], centre: tuple[float, float]
) -> NDArray[np.float64]:
    """Centre of mass in level-0 pixels of an image whose first pixel's centre is at `centre`."""
    mass = np.nan_to_num(field).astype(np.float64)
    y, x = np.indices(mass.shape)
    return np.array(
        [centre[0] + (x * mass).sum() / mass.sum() * scale[0], centre[1] + (y * mass).sum() / mass.sum() * scale[1]]
    )


def assert_there(found: NDArray[np.float64], printed: Printed, share: float = 0.15) -> None:
    """Half a stride is the worst that may happen; a centre of mass is far better than that."""
    assert np.abs(found - TARGET).max() < share * printed.half_cell


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_png(printed: Printed, interpolation: str) -> None:
    # With threshold 1 there is no contour line; the scale bar lies below the target and is left out.
    options = HeatmapOptions(size=700, cmap="gray", alpha=1, threshold=1, interpolation=interpolation)  # type: ignore[arg-type]
    with Image.open(export(printed.store, "png", options=options)) as image:
        frame = json.loads(image.text["wsivit"])  # type: ignore[attr-defined]
        page = np.asarray(image)[..., 0] / 255
    panel = page[frame["top"] :, frame["left"] :][: frame["height"], : frame["width"]]
    x, y = frame["level0_per_pixel"]
    assert (x * frame["width"], y * frame["height"]) == pytest.approx((WIDTH, HEIGHT))
    left, top, width, height = printed.case.bounds or (0, 0, WIDTH, HEIGHT)  # beyond, the glass shows
    rim = 2 if printed.case.bounds is None else int(4 * printed.half_cell / x)
    first = int(left / x) + rim, int(top / y) + rim
    last = int((left + width) / x) - rim, min(int((top + height) / y) - rim, int(0.8 * len(panel)))
    upper = panel[first[1] : last[1], first[0] : last[0]]
    assert_there(centroid(upper, (x, y), ((first[0] + 0.5) * x, (first[1] + 0.5) * y)), printed)


def test_ome_tiff(printed: Printed) -> None:
    with tifffile.TiffFile(export(printed.store, "ome-tiff")) as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata or "")["OME"]["Image"]["Pixels"]
        field = tiff.asarray()[1]
    # Physical size and position alone lead back to the slide, whose first pixel has its centre at 0.5 pixels.
    mpp = printed.case.slide_mpp
    scale = pixels["PhysicalSizeX"] / mpp, pixels["PhysicalSizeY"] / mpp
    centre = pixels["Plane"][1]["PositionX"] / mpp + 0.5, pixels["Plane"][1]["PositionY"] / mpp + 0.5
    assert_there(centroid(field, scale, centre), printed)


def test_overlay(printed: Printed) -> None:
    options = HeatmapOptions(size=700, cmap="gray")
    with tifffile.TiffFile(export(printed.store, "overlay", options=options)) as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata or "")["OME"]["Image"]["Pixels"]
        rgba = tiff.asarray()
    mpp = printed.case.slide_mpp
    scale = pixels["PhysicalSizeX"] / mpp, pixels["PhysicalSizeY"] / mpp
    assert_there(centroid(rgba[..., 0], scale, (scale[0] / 2, scale[1] / 2)), printed)


def test_ome_zarr(printed: Printed) -> None:
    group = zarr.open_group(export(printed.store, "ome-zarr"), mode="r")
    (dataset,) = group.attrs["ome"]["multiscales"][0]["datasets"]  # type: ignore[index, call-overload]
    scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
    mpp = printed.case.slide_mpp
    field = np.asarray(group[dataset["path"]][1])  # type: ignore[index]
    centre = translation[2] / mpp + 0.5, translation[1] / mpp + 0.5
    assert_there(centroid(field, (scale[2] / mpp, scale[1] / mpp), centre), printed)


def test_geojson_tiles(printed: Printed) -> None:
    document = json.loads(export(printed.store, "geojson").read_text())
    origin = np.array(document["wsivit"]["view_origin"])
    assert origin.tolist() == list((printed.case.bounds or (0, 0))[:2])
    middles = np.array([shape(f["geometry"]).centroid.coords[0] for f in document["features"]])
    mass = np.array([f["properties"]["measurements"]["target probability"] for f in document["features"]])
    assert_there((middles * mass[:, None]).sum(axis=0) / mass.sum() + origin, printed)


def test_geojson_regions(printed: Printed) -> None:
    document = json.loads(export(printed.store, "regions").read_text())
    (region,) = (shape(feature["geometry"]) for feature in document["features"])
    moved = shapely.transform(region, lambda xy: xy + document["wsivit"]["view_origin"])
    assert_there(np.array(moved.centroid.coords[0]), printed, share=0.5)  # made of whole cells
    assert moved.area == pytest.approx(np.pi * RADIUS**2, rel=0.15)


def test_csv(printed: Printed) -> None:
    table = np.genfromtxt(export(printed.store, "csv"), delimiter=",", names=True)
    x, y = table["minx"] + table["width"] / 2, table["miny"] + table["height"] / 2
    mass = table["prob_target"]
    assert_there(np.array([(x * mass).sum(), (y * mass).sum()]) / mass.sum(), printed)
