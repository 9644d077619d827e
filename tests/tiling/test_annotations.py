"""Annotations: every form that QuPath and ASAP write, and labels against closed forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box, mapping

from wsivit.errors import UsageError, WsivitError
from wsivit.tiling.annotations import Annotation, label_tiles, read_annotations

SQUARE = [[[10, 10], [110, 10], [110, 60], [10, 60], [10, 10]]]


def feature(coordinates: Any = SQUARE, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    properties = {"objectType": "annotation", "classification": {"name": "tumor"}} | properties
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.mark.parametrize(
    "document",
    [{"type": "FeatureCollection", "features": [feature()]}, [feature()], feature()],
    ids=["collection", "list", "single"],
)
def test_every_shape_of_geojson(tmp_path: Path, document: Any) -> None:
    (region,) = read_annotations(write(tmp_path / "a.geojson", document))
    assert region == Annotation("tumor", Polygon(SQUARE[0]))


def test_regions_inside_regions_and_those_of_older_versions(tmp_path: Path) -> None:
    inner = feature(classification={"name": "necrosis"}) | {"id": "PathAnnotationObject"}
    del inner["properties"]["objectType"]
    outer = feature(childObjects=[inner, feature(objectType="tile")])
    regions = read_annotations(write(tmp_path / "a.geojson", [outer, feature() | {"id": "PathCellObject"}]))
    assert [region.name for region in regions] == ["tumor", "necrosis", "tumor"]
    old = feature() | {"id": "PathDetectionObject"}
    del old["properties"]["objectType"]
    assert len(read_annotations(write(tmp_path / "b.geojson", [outer, old]))) == 2


def test_gzip_is_found_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(gzip.compress(json.dumps([feature()]).encode()))
    assert read_annotations(path)[0].geometry.area == 5000


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": {"name": "Stroma", "colorRGB": -1}}, "Stroma"),
        ({"classification": None, "name": "region 1"}, "region 1"),
        ({"classification": "tumor"}, "tumor"),
    ],
)
def test_class_names(tmp_path: Path, properties: dict[str, Any], name: str) -> None:
    assert read_annotations(write(tmp_path / "a.json", feature(**properties)))[0].name == name


def test_results_and_shapes_without_area_are_passed_over(tmp_path: Path) -> None:
    others = [
        feature(objectType="tile"),
        feature(objectType="cell"),
        feature([5, 5], "Point"),
        feature([[0, 0], [9, 9]], "LineString"),
        feature(classification=None),
    ]
    path = write(tmp_path / "a.geojson", [*others, feature()])
    assert len(read_annotations(path)) == 1
    with pytest.raises(UsageError, match=r"no labelled region.*1 without a class or name, 2 without an area"):
        read_annotations(write(path, others))


def test_holes_multipolygons_and_self_crossing_outlines(tmp_path: Path) -> None:
    hole = [[[30, 30], [40, 30], [40, 40], [30, 40], [30, 30]]]
    bow_tie = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    documents = [feature(SQUARE + hole), feature([SQUARE, bow_tie], "MultiPolygon"), feature(bow_tie)]
    holed, multi, bow = (r.geometry for r in read_annotations(write(tmp_path / "a.geojson", documents)))
    assert holed.area == 4900
    assert bow.is_valid and bow.area == pytest.approx(50)
    assert multi.is_valid


def test_geojson_counts_from_where_the_slide_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.geojson", feature())
    assert read_annotations(path, view_origin=(1000, -5))[0].geometry.bounds == (1010, 5, 1110, 55)


def test_asap_groups_order_and_types(tmp_path: Path) -> None:
    def annotation(name: str, group: str, kind: str = "Polygon") -> str:
        corners = [(10, 10), (110, 10), (110, 60), (10, 60)]
        points = "".join(f'<Coordinate Order="{i}" X="{x}.0" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        shuffled = "/>".join(reversed(points.split("/>")[:-1])) + "/>"
        return (
            f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}">'
            f"<Coordinates>{shuffled}</Coordinates></Annotation>"
        )

    body = annotation("A 0", "Tumor") + annotation("mine", "None") + annotation("p", "Tumor", "Dot")
    xml = f"<?xml version='1.0'?><ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>"
    path = write(tmp_path / "a.xml", xml)
    regions = read_annotations(path)
    assert [region.name for region in regions] == ["Tumor", "mine"]
    assert all(region.geometry.equals(box(10, 10, 110, 60)) for region in regions)
    assert read_annotations(path, view_origin=(1000, 1000)) == regions  # ASAP counts from the whole image's corner


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "neither GeoJSON nor XML"),
        ('{"type": "Topology"}', "not GeoJSON features"),
        ("[[1, 2]]", "not GeoJSON features"),
        ("[" * 100_000, "neither GeoJSON nor XML"),
        (json.dumps([feature([[[0, 0], [1]]])]), "broken outline"),
        (json.dumps([feature(kind="Blob")]), "broken outline"),
        (json.dumps([feature([[[0, 0], [float("nan"), 1], [2, 2], [0, 0]]])]), "not numbers"),
        ("[]", "holds no annotation"),
        ("<ASAP_Annotations>", "damaged XML"),
        ("<Annotations/>", "another tool"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><ASAP_Annotations/>", "entities"),
        (
            '<ASAP_Annotations><Annotation Type="Spline"><Coordinate X=""/></Annotation></ASAP_Annotations>',
            "broken outline",
        ),
    ],
)
def test_bad_files_say_what_and_where(tmp_path: Path, content: str, says: str) -> None:
    path = write(tmp_path / "bad.geojson", content)
    with pytest.raises(UsageError, match=says) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        read_annotations(tmp_path / "none.geojson")
    path = tmp_path / "cut.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps([feature()]).encode())[:-9])
    with pytest.raises(WsivitError, match="damaged gzip"):
        read_annotations(path)


def lattice(n: int, side: float) -> np.ndarray:
    row, col = np.divmod(np.arange(n * n), n)
    return np.stack([col, row, col + 1, row + 1], axis=1) * side


@given(st.floats(0.02, 7.98), st.floats(0.02, 7.98))
@settings(max_examples=50, deadline=None)
def test_labels_of_a_half_plane_follow_its_edge(edge: float, cover: float) -> None:
    left = Annotation("left", box(-1, -1, edge * 10, 81))
    min_cover = cover / 8
    codes, classes = label_tiles([left], lattice(8, 10.0), min_cover)
    share = np.clip(edge - np.arange(8), 0, 1)
    assert classes == ("left",)
    clear = np.abs(share - min_cover) > 1e-6
    np.testing.assert_array_equal((codes.reshape(8, 8) == 0)[:, clear], np.tile(share >= min_cover, (8, 1))[:, clear])


def test_half_covered_is_enough_and_less_is_not() -> None:
    assert label_tiles([Annotation("a", box(0, 0, 5, 10))], [[0, 0, 10, 10]])[0].tolist() == [0]
    assert label_tiles([Annotation("a", box(0, 0, 4.99, 10))], [[0, 0, 10, 10]])[0].tolist() == [-1]


def test_the_smaller_region_is_cut_out_of_the_larger() -> None:
    regions = [Annotation("tumor", box(0, 0, 100, 100)), Annotation("necrosis", box(0, 0, 16, 10))]
    codes, classes = label_tiles(regions, lattice(10, 10.0))
    assert classes == ("necrosis", "tumor")
    assert codes[:3].tolist() == [0, 0, 1]  # the second tile: 60 % necrosis, and 40 % tumor that is left


def test_overlapping_regions_of_one_class_count_once() -> None:
    twice = [Annotation("a", box(0, 0, 3, 10)), Annotation("a", box(1, 0, 4, 10))]
    assert label_tiles(twice, [[0, 0, 10, 10]])[0].tolist() == [-1]


def test_codes_of_a_detailed_outline_equal_a_fine_raster() -> None:
    angle = np.linspace(0, 2 * np.pi, 5001)[:-1]
    radius = 350 + 40 * np.sin(9 * angle) + 3 * np.sin(400 * angle)
    star = Polygon(np.stack([400 + radius * np.cos(angle), 400 + radius * np.sin(angle)], axis=1))
    codes, _ = label_tiles([Annotation("star", star)], lattice(16, 50.0))
    y, x = np.mgrid[0:800, 0:800] + 0.5
    share = shapely.contains_xy(star, x, y).reshape(16, 50, 16, 50).mean(axis=(1, 3))
    clear = np.abs(share - 0.5) > 0.01
    np.testing.assert_array_equal((codes.reshape(16, 16) == 0)[clear], (share > 0.5)[clear])


def test_nothing_to_label() -> None:
    codes, classes = label_tiles([], lattice(2, 1.0))
    assert codes.dtype == np.int16 and codes.tolist() == [-1] * 4 and classes == ()
    assert label_tiles([Annotation("a", box(0, 0, 1, 1))], np.zeros((0, 4)))[0].shape == (0,)
    with pytest.raises(UsageError, match="min_cover"):
        label_tiles([], lattice(2, 1.0), 0)
    with pytest.raises(UsageError, match="shape"):
        label_tiles([], [1, 2, 3, 4])


def test_the_shared_regions_read(real_slide: Any) -> None:
    regions = read_annotations(real_slide("sarcoma-liver-10x.regions.geojson"))
    assert sorted(region.name for region in regions) == ["liver", "tumor"]
    assert mapping(regions[0].geometry)["type"] in ("Polygon", "MultiPolygon")
