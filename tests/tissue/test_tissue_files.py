"""Tissue that a person gives: outlines and mask images, and what is said of wrong ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.small_slides import tissue_picture, write_slide

from wsivit.errors import UsageError
from wsivit.heatmap import export
from wsivit.tiling import TileOptions, tile
from wsivit.tissue import read_tissue, tissue_geojson

SIZE = (1600, 1200)


def blob() -> np.ndarray:
    y, x = np.mgrid[0:120, 0:160]
    distance = np.hypot(x - 70, y - 60)
    return (distance < 45) & (distance > 12)


@pytest.mark.parametrize("form", ["collection", "list", "feature"])
def test_geojson_goes_out_and_comes_back(tmp_path: Path, form: str) -> None:
    collection = tissue_geojson(blob(), (10, 10), (0.5, 0.5))
    (feature,) = collection["features"]
    expected = np.pi * (45**2 - 12**2) * 100 * 0.25 / 1e6
    assert feature["properties"]["measurements"]["Area mm^2"] == pytest.approx(expected, rel=0.02)
    path = tmp_path / "tissue.geojson"
    path.write_text(json.dumps({"collection": collection, "list": [feature], "feature": feature}[form]))
    back = read_tissue(path, (120, 160), SIZE)
    assert (back.mask & blob()).sum() / (back.mask | blob()).sum() > 0.985
    assert back.parameters["method"] == "polygons" and len(back.parameters["sha256"]) == 64


def test_outlines_count_from_where_the_viewer_does(tmp_path: Path) -> None:
    collection = tissue_geojson(blob(), (10, 10), view_origin=(120, 40))
    path = tmp_path / "tissue.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(collection).encode()))
    back = read_tissue(path, (120, 160), SIZE, view_origin=(120, 40)).mask
    assert (back & blob()).sum() / (back | blob()).sum() > 0.985
    there = read_tissue(path, (120, 160), SIZE).mask
    assert np.array_equal(np.roll(there, (4, 12), axis=(0, 1)), back)
    path.write_bytes(b"not gzip")
    with pytest.raises(UsageError, match="is not GeoJSON"):
        read_tissue(path, (120, 160), SIZE)


@pytest.mark.parametrize(("name", "high"), [("mask.png", 1), ("mask.png", 255), ("mask.jpg", 255)])
def test_mask_images_keep_their_own_size(tmp_path: Path, name: str, high: int) -> None:
    path = tmp_path / name
    Image.fromarray(blob().astype(np.uint8) * high).save(path)
    tissue = read_tissue(path, (33, 44), SIZE)
    assert (tissue.mask != blob()).mean() < (0.01 if name.endswith("jpg") else 1e-9)


def test_wrong_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the tissue mask"):
        read_tissue(tmp_path / "no.png", (10, 10), SIZE)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UsageError, match="neither GeoJSON nor an image"):
        read_tissue(tmp_path / "text.png", (10, 10), SIZE)
    (tmp_path / "text.json").write_text("{]")
    with pytest.raises(UsageError, match="is not GeoJSON"):
        read_tissue(tmp_path / "text.json", (10, 10), SIZE)
    (tmp_path / "point.json").write_text('{"type": "Point", "coordinates": [1, 2]}')
    with pytest.raises(UsageError, match="no polygon"):
        read_tissue(tmp_path / "point.json", (10, 10), SIZE)
    Image.new("L", (100, 100), 1).save(tmp_path / "square.png")
    with pytest.raises(UsageError, match="not the shape of the slide"):
        read_tissue(tmp_path / "square.png", (10, 10), SIZE)


def test_a_stores_tissue_goes_to_qupath_and_comes_back(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(1500, 1200), tile=128)
    first = tile(slide, tmp_path / "first").store
    path = export(first, "tissue")
    assert path.name == "s-tissue.geojson"
    features = json.loads(path.read_text())["features"]
    mask, downsample = first.tissue_mask
    area = mask.sum() * downsample[0] * downsample[1] * 0.25 / 1e6
    assert sum(f["properties"]["measurements"]["Area mm^2"] for f in features) == pytest.approx(area, rel=0.02)
    again = tile(slide, tmp_path / "again", TileOptions(tissue=str(path))).store
    assert again.parameters.tissue["method"] == "polygons" and again.parameters.tissue["file"] == path.name
    back, _ = again.tissue_mask
    assert (back & mask).sum() / (back | mask).sum() > 0.98
