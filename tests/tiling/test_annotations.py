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
        ("<Annotations/>", "without regions"),
        ("<Other/>", "another tool"),
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


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


@pytest.mark.parametrize(
    "click",
    [
        feature([[[7, 9], [7, 9]]]),
        feature([[[7, 9], [8, 9]]]),
        feature([[[7, 9], [8, 9], [7, 9]]]),
        feature([[[7, 9], [7, 9], [7, 9], [7, 9]]]),
        feature([[[7, 9], [17, 9], [27, 9], [7, 9]]]),
        feature([7, 9], "Point"),
        feature([[7, 9], [9, 9]], "LineString"),
    ],
    ids=["one point", "two points", "there and back", "four clicks", "a flat triangle", "point", "line"],
)
def test_a_stray_click_is_left_out_and_named(tmp_path: Path, click: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.geojson", [feature(), click, feature(classification={"name": "stroma"})])
    assert [region.name for region in read_annotations(path)] == ["tumor", "stroma"]
    assert "left out as without an area" in caplog.text
    assert "region 2 (tumor) at 7, 9" in caplog.text


def test_a_stray_click_in_a_multipolygon_or_as_a_hole_leaves_the_rest(tmp_path: Path) -> None:
    click = [[5, 5], [6, 5]]
    documents = [feature([[square(0, 0, 10)], [click]], "MultiPolygon"), feature([square(0, 0, 10), click])]
    assert [r.geometry.area for r in read_annotations(write(tmp_path / "a.json", documents))] == [100, 100]


@pytest.mark.parametrize("body", ["", '<Coordinate X="5" Y="5"/><Coordinate X="9" Y="9"/>'], ids=["none", "two points"])
def test_a_stray_click_in_asap(tmp_path: Path, body: str, caplog: pytest.LogCaptureFixture) -> None:
    def annotation(coordinates: str) -> str:
        return f'<Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>{coordinates}</Coordinates></Annotation>'

    corners = "".join(f'<Coordinate X="{x}" Y="{y}"/>' for x, y in [(0, 0), (10, 0), ("10,5", 10)])
    xml = f"<ASAP_Annotations>{annotation(corners)}{annotation(body)}</ASAP_Annotations>"
    (region,) = read_annotations(write(tmp_path / "a.xml", xml))
    assert region.geometry.equals(Polygon([(0, 0), (10, 0), (10.5, 10)]))  # a decimal comma is one
    assert "region 2 (Tumor)" in caplog.text


def image_scope(*regions: str, layer: str = 'Name="Tumor"', attributes: str = "") -> str:
    return (
        f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" {layer}><Attributes>{attributes}</Attributes>'
        f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions></Annotation></Annotations>"
    )


def image_scope_region(points: Any, kind: str = "0", negative: str = "0", tag: str = "Vertex", **more: str) -> str:
    vertices = "".join(f'<{tag} X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    extra = " ".join(f'{key}="{value}"' for key, value in more.items())
    return f'<Region Type="{kind}" NegativeROA="{negative}" {extra}><Vertices>{vertices}</Vertices></Region>'


@pytest.mark.parametrize(("tag", "kind"), [("Vertex", "0"), ("Vertex", "Polygon"), ("V", "Polygon")])
def test_image_scope_and_halo_with_holes_and_islands_in_them(tmp_path: Path, tag: str, kind: str) -> None:
    outer, hole, island = square(0, 0, 100), square(20, 20, 50), square(30, 30, 10)
    regions = [
        image_scope_region(outer, kind, tag=tag),
        image_scope_region(hole, kind, negative="1", tag=tag),
        image_scope_region(island, kind, tag=tag),
    ]
    path = write(tmp_path / "s.annotations", image_scope(*regions))
    first, second = read_annotations(path, view_origin=(1000, 0))
    assert first.name == second.name == "Tumor"
    assert first.geometry.equals(box(0, 0, 100, 100).difference(box(20, 20, 70, 70)))
    assert second.geometry.equals(box(30, 30, 40, 40))
    codes, _ = label_tiles([first, second], lattice(10, 10.0))
    expected = np.zeros((10, 10), int)
    expected[2:7, 2:7] = -1
    expected[3, 3] = 0
    np.testing.assert_array_equal(codes.reshape(10, 10), expected)


def test_frames_of_rectangles_and_ellipses_and_what_has_no_area(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = [(10, 20), (110, 60)]
    regions = [image_scope_region(frame, kind) for kind in ("1", "Rectangle", "2", "Ellipse", "3", "Ruler", "Pin")]
    box_, halo_box, ellipse, halo_ellipse = read_annotations(write(tmp_path / "a.xml", image_scope(*regions)))
    assert box_.geometry.equals(box(10, 20, 110, 60)) and halo_box == box_
    assert ellipse.geometry.area == pytest.approx(np.pi * 50 * 20, rel=1e-3) and halo_ellipse == ellipse
    assert ellipse.geometry.centroid.coords[0] == pytest.approx((60, 40))
    assert all(f"region {number} (Tumor) at 10, 20" in caplog.text for number in (5, 6, 7))


@pytest.mark.parametrize(
    ("layer", "attributes", "text"),
    [
        ('Name="Tumor "', "", ""),
        ('Name=""', '<Attribute Name="Description" Value="Tumor"/>', "not this"),
        ("", "", "Tumor"),
    ],
)
def test_the_class_in_image_scope(tmp_path: Path, layer: str, attributes: str, text: str) -> None:
    region = image_scope_region(square(0, 0, 9), Text=text)
    xml = image_scope(region, layer=layer, attributes=attributes)
    path = tmp_path / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="utf-16"?>{xml}'.encode("utf-16"))
    assert [region.name for region in read_annotations(path)] == ["Tumor"]


def test_names_are_trimmed_and_similar_ones_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["Tumor ", "Tumor", "tumor", "Lymph node", "lymphnode", "Stroma"]
    path = write(tmp_path / "a.json", [feature(classification={"name": name}) for name in names])
    assert [region.name for region in read_annotations(path)] == [name.strip() for name in names]
    assert "differ only in case or spaces: 'Tumor', 'tumor'" in caplog.text
    assert "differ only in case or spaces: 'Lymph node', 'lymphnode'" in caplog.text
    assert "Stroma" not in caplog.text


def test_classes_with_a_star_are_what_qupath_means_by_them() -> None:
    tumor = Annotation("Tumor", box(0, 0, 60, 100))
    frame = Annotation("Region*", box(0, 0, 20, 20))  # smaller than the tumor: a frame cuts nothing out
    artefact = Annotation("Artefact*", box(0, 50, 60, 60))
    ignore = Annotation("Ignore*", box(40, 0, 100, 200))  # larger than the tumor, and ignored all the same
    codes, classes = label_tiles([tumor, frame, artefact, ignore], lattice(10, 10.0))
    assert classes == ("Tumor",)
    expected = np.full((10, 10), -1)
    expected[:, :4] = 0
    expected[5] = -1
    np.testing.assert_array_equal(codes.reshape(10, 10), expected)


def test_a_file_of_ignored_classes_alone_has_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [feature(classification={"name": "Ignore*"})])
    with pytest.raises(UsageError, match=r"1 of classes that end in \*"):
        read_annotations(path)


def test_regions_outside_the_slide_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.json", [feature(), feature([square(900, 900, 50)]), feature([square(190, 0, 100)])])
    assert len(read_annotations(path, slide_size=(200, 100))) == 3
    assert "2 regions are more than half outside the slide: region 2 (tumor) at 900, 900; region 3" in caplog.text
    caplog.clear()
    assert len(read_annotations(path, slide_size=(1000, 1000))) == 3
    assert caplog.text == ""
    with pytest.raises(UsageError, match="none of its 3 regions lies on the slide of 5 x 5 pixels"):
        read_annotations(path, slide_size=(5, 5))
    # Where the slide's bounds begin, QuPath has its origin.
    assert len(read_annotations(path, slide_size=(1200, 1200), view_origin=(200, 200))) == 3


def test_an_outline_drawn_on_past_its_start_is_filled(tmp_path: Path) -> None:
    angle = np.linspace(0, 2.2 * 2 * np.pi, 100, endpoint=False)
    radius = 100 + angle  # a spiral: the second round lies outside the first
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).tolist()
    (region,) = read_annotations(write(tmp_path / "a.json", feature([outline])))
    assert region.geometry.area == pytest.approx(shapely.convex_hull(region.geometry).area, rel=0.02)


def test_a_scribble_is_refused_in_time_and_memory(tmp_path: Path) -> None:
    scribble = np.random.default_rng(0).uniform(0, 1000, (1000, 2)).round(1).tolist()
    path = write(tmp_path / "a.json", [feature(), feature([scribble])])
    with pytest.raises(UsageError, match=r"region 2 \(tumor\) at .* crosses itself more than 20,000 times"):
        read_annotations(path)


def test_an_outline_that_cannot_be_repaired_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise shapely.errors.GEOSException("TopologyException")

    monkeypatch.setattr(shapely, "make_valid", failing)
    with pytest.raises(UsageError, match=r"region 1 \(tumor\) at 10, 10 has an outline that cannot be repaired"):
        read_annotations(write(tmp_path / "a.json", feature([[[10, 10], [20, 20], [20, 10], [10, 20], [10, 10]]])))
