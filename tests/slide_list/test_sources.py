"""One or many: what stands for a source, and which files of ours are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run, write_store

import wsivit
from wsivit.cohort import CohortLayout, CohortResult
from wsivit.errors import UsageError
from wsivit.slide_list import SlideRow, each_source, find_slides, find_stores, locations, slides_below
from wsivit.store import Predictions, TileStore
from wsivit.tiling import TilingResult


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate(("a", "b")):
        store = write_store(folder, name, columns=6, rows=4, seed=seed)
        ones = np.full((len(store), 2), 0.5, np.float32)
        store.write_predictions("vit", Predictions(ones, ("stroma", "tumor")))
    return folder


MANY = {
    "train": lambda path, out: wsivit.train(path, model="test_vit", output=out, pretrained=False),
    "evaluate": lambda path, out: wsivit.evaluate(make_run(out / "run"), path, output=out / "e"),
    "index": lambda path, out: wsivit.index(path, out / "i.parquet"),
    "aggregate": lambda path, out: wsivit.aggregate(path, out / "s.csv"),
    "relink": lambda path, out: wsivit.relink(path, out),
    "tile": lambda path, out: wsivit.tile(path, out),
    "export": lambda path, out: wsivit.export(path, "csv", out / "e.csv"),
    "heatmap": lambda path, out: wsivit.heatmap(path, output=out),
    "Cohort": lambda path, out: wsivit.Cohort(path, out),
}


@pytest.mark.parametrize("verb", MANY)
def test_a_string_is_one_path_and_never_its_letters(verb: str, tmp_path: Path) -> None:
    call: Callable[[Any, Path], object] = MANY[verb]
    with pytest.raises((ValueError, OSError), match=r"nowhere\.zarr"):
        call(str(tmp_path / "nowhere.zarr"), tmp_path)


@pytest.mark.parametrize("wrong", [None, 5, [], [None], [b"a"], "", [""]])
def test_what_is_no_source_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"path, URL, open slide or tile store|no data were given"):
        each_source(wrong)


def test_an_open_store_is_one_source(stores: Path) -> None:
    store = TileStore(stores / "a.zarr")
    assert each_source(store) == [store]
    assert each_source(path for path in (stores / "a.zarr", store)) == [stores / "a.zarr", store]
    assert locations([store, stores / "b.zarr"]) == [str(stores / "a.zarr"), str(stores / "b.zarr")]
    assert [found if isinstance(found, str) else found.url for found in find_stores([store, str(stores)])] == [
        str(stores / "a.zarr"),
        str(stores / "b.zarr"),
    ]


def test_stores_in_every_form_give_one_table(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{stores}/a.zarr\n{stores}/b.zarr\n")
    (tmp_path / "table.csv").write_text(f"slide_id,store\na,{stores}/a.zarr\nb,{stores}/b.zarr\n")
    layout = CohortLayout(tmp_path / "cohort")
    gone = SlideRow("c", store=str(tmp_path / "cohort" / "slides" / "c.zarr"), path="/gone.svs")
    layout.add_slides([SlideRow(name, store=f"{stores}/{name}.zarr") for name in "ab"] + [gone])
    forms: list[Any] = [
        [stores / "a.zarr", str(stores / "b.zarr")],
        [TileStore(stores / "a.zarr"), TileStore(stores / "b.zarr")],
        stores,
        f"{stores}/*.zarr",
        tmp_path / "list.txt",
        tmp_path / "table.csv",
        tmp_path / "cohort",
    ]
    tables = [Path(wsivit.aggregate(form, tmp_path / f"{i}.csv")).read_text() for i, form in enumerate(forms)]
    assert len(set(tables)) == 1
    assert wsivit.index(tmp_path / "cohort", tmp_path / "i.parquet").stores == 2
    out = wsivit.export(tmp_path / "cohort", "csv", tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["a-vit.csv", "b-vit.csv"]
    assert len(out) == 2  # type: ignore[arg-type]


def test_two_stores_of_one_name_are_not_exported_over_each_other(stores: Path, tmp_path: Path) -> None:
    write_store(tmp_path, "a", columns=6, rows=4, seed=3)
    with pytest.raises(UsageError, match="2 stores are of a slide a"):
        wsivit.export([stores / "a.zarr", tmp_path / "a.zarr"], "tissue", tmp_path / "out")


def test_our_own_outputs_are_no_input(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.ome.tif", tissue_picture(500, 400), levels=1)
    made = wsivit.tile(tmp_path / "s.ome.tif", tmp_path, tile_size=128)
    ones = np.full((len(made.store), 2), 0.5, np.float32)
    made.store.write_predictions("vit", Predictions(ones, ("stroma", "tumor")))
    for form in ("ome-tiff", "overlay", "ome-zarr", "geojson", "png"):
        wsivit.export(made.store, form)  # type: ignore[arg-type]
    assert {"s-vit.ome.tif", "s-vit.ome.zarr", "s-preview.png"} <= {path.name for path in tmp_path.iterdir()}
    assert [*slides_below(str(tmp_path))] == ["s.zarr", "s.ome.tif"]
    (row,) = find_slides(tmp_path)
    assert (Path(row.path).name, Path(row.store).name) == ("s.ome.tif", "s.zarr")
    assert find_slides(f"{tmp_path}/*.tif") == [replace(row, store="")]
    assert wsivit.index(tmp_path, tmp_path / "i.parquet").stores == 1
    again = wsivit.tile(tmp_path, tmp_path / "out", tile_size=64)
    assert isinstance(again, CohortResult)
    assert [(record.slide_id, record.state) for record in again.records] == [("s", "done")]
    assert TileStore(tmp_path / "out" / "slides" / "s.zarr").grid.tile_size == 64
    assert TileStore(tmp_path / "s.zarr").grid.tile_size == 128
    # What the cohort has made goes before what lies next to the slide; of others, what is there is taken.
    ours, theirs = wsivit.Cohort(tmp_path, tmp_path / "out"), wsivit.Cohort(tmp_path / "s.ome.tif", tmp_path / "other")
    assert [slide.store for slide in ours.slides] == [str(tmp_path / "out" / "slides" / "s.zarr")]
    assert [slide.store for slide in theirs.slides] == [""]


def test_an_export_is_known_by_its_content(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "slide.ome.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb", ome=True)
    assert [*slides_below(str(tmp_path))] == ["slide.ome.tif"]


def test_slides_of_one_id_in_two_tables_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / f"{name}.tiff", tissue_picture(300, 300))
        (tmp_path / f"{name}.csv").write_text(f"slide_id,path\nx,{name}.tiff\n")
    with pytest.raises(UsageError, match=r"two slides are called x: .*a\.tiff and .*b\.tiff"):
        find_slides([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_one_slide_gives_its_result_and_a_list_a_cohorts(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(500, 400))
    assert isinstance(wsivit.tile(str(slide), tmp_path / "one", mpp=1.0), TilingResult)
    many = wsivit.tile([slide], tmp_path / "many", mpp=1.0, workers=0, include="*s")
    assert isinstance(many, CohortResult)
    with pytest.raises(UsageError, match="annotations is for one slide"):
        wsivit.tile([slide], tmp_path / "many", annotations="x.geojson")
    with pytest.raises(UsageError, match="many slides need an output"):
        wsivit.tile([slide])
