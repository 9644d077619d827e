"""``wsivit info`` says what is in a slide, a store, a run or a cohort."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli_helpers import wsivit_
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run

import wsivit
from wsivit.cohort import CohortInfo
from wsivit.errors import StoreError
from wsivit.models import RunInfo
from wsivit.slide import SlideInfo
from wsivit.store import StoreInfo


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    (work / "slides").mkdir()
    for seed, name in enumerate(("a", "b")):
        write_slide(work / "slides" / f"{name}.tiff", tissue_picture(500, 400, seed))
    write_slide(work / "slides" / "c.tiff", tissue_picture(300, 300), mpp=None)
    wsivit.tile(work / "slides", work / "cohort", tile_size=64)
    make_run(work / "run")
    return work


def test_each_kind_is_told_by_what_the_path_is(work: Path) -> None:
    slide, store = wsivit.info(work / "slides" / "a.tiff"), wsivit.info(work / "cohort" / "slides" / "a.zarr")
    run, cohort = wsivit.info(str(work / "run")), wsivit.info(work / "cohort")
    assert isinstance(slide, SlideInfo) and slide.dimensions == (500, 400)
    assert isinstance(store, StoreInfo) and store.slide_id == "a"
    assert isinstance(run, RunInfo) and (run.classes, run.mpp) == (("stroma", "tumor"), 0.5)
    assert isinstance(cohort, CohortInfo)
    assert (cohort.slides, cohort.verbs) == (3, {"tile": {"done": 2, "failed": 1}})
    assert cohort.tiles == sum(len(wsivit.TileStore(work / "cohort" / "slides" / f"{name}.zarr")) for name in "ab")
    assert sum(cohort.scales.values()) == 2
    for described in (store, run, cohort):
        assert described._repr_html_().startswith("<table>")


def test_the_command(work: Path) -> None:
    done = wsivit_("info", work / "cohort")
    assert done.returncode == 0 and "tile: 2 done, 1 failed" in done.stdout
    document = json.loads(wsivit_("info", work / "run", "--json").stdout)
    assert document["classes"] == ["stroma", "tumor"]


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(StoreError, match=r"x\.zarr is not a tile store"):
        wsivit.info(tmp_path / "x.zarr")
