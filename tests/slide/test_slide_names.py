"""One name of a slide for its store, its annotations and its row of a table, whatever its format is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.small_slides import tissue_picture, write_slide

from wsivit import TileOptions, open_slide, tile
from wsivit.data import load_samples
from wsivit.slide import slide_id, slide_stem
from wsivit.slide_list import find_slides
from wsivit.tiling import find_annotations

NAMES = ["case.ome.tif", "case.ome.tiff", "case.OME.TIF", "case.ome.btf", "case.svs", "case.tiff", "case.ndpi"]


@pytest.mark.parametrize("name", NAMES)
def test_store_annotations_and_tables_call_a_slide_the_same(tmp_path: Path, name: str) -> None:
    path = write_slide(tmp_path / name, tissue_picture(300, 260))
    with open_slide(path) as slide:
        assert slide.id == "case"
        store = tile(slide, tmp_path / "out", TileOptions(mpp=0.5, tile_size=128)).store
    assert (tmp_path / "out" / "case.zarr").is_dir() and store.parameters.slide_id == "case"
    assert [row.id for row in find_slides([tmp_path / name])] == [f"{tmp_path.name}__case"]
    (tmp_path / "only").mkdir()
    path = path.rename(tmp_path / "only" / name)
    assert [row.id for row in find_slides([path.parent])] == ["case"]
    exported = path.with_name(f"{path.stem}.geojson")  # as QuPath calls it
    exported.touch()
    assert find_annotations(path) == exported
    (path.parent / "case.geojson").touch()
    assert find_annotations(path) == path.parent / "case.geojson"


@pytest.mark.parametrize("named", ["case", "case.ome.tif", "case.svs"])
def test_a_table_names_a_store_by_its_slide_or_its_file(tmp_path: Path, named: str) -> None:
    for name in ("case", "other"):
        with open_slide(write_slide(tmp_path / f"{name}.tif", tissue_picture(300, 260))) as slide:
            tile(slide, tmp_path, TileOptions(mpp=0.5, tile_size=128))
    (tmp_path / "table.csv").write_text(f"filename,label\n{named},tumour\nother.svs,normal\n")
    samples = load_samples([tmp_path / "table.csv"])
    assert [source.id for source in samples.sources] == ["case", "other"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b/case.ome.tif", "case"),
        (r"C:\slides\case.svs", "case"),
        ("1.2.276.0.1", "1.2.276.0.1"),
        ("IM0001", "IM0001"),
        ("S12.345 B2.tiff", "S12.345 B2"),
        ("case.1.svs", "case.1"),
        (".ome.tif", ".ome"),
        ("case.ome.tif.zarr", "case.ome.tif"),
        ("ome.tif", "ome"),
    ],
)
def test_what_of_a_name_is_the_format(name: str, stem: str) -> None:
    assert slide_stem(name) == stem
    assert slide_id(name).startswith(stem.lstrip(".").split(" ")[0])
