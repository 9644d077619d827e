"""Scales of many slides, and that what a cohort advises works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run

import wsivit
from wsivit.cohort import Cohort, CohortOptions
from wsivit.errors import ScaleError, UsageError, WsivitError
from wsivit.store import TileStore


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide at 0.5 microns per pixel, one without a scale."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "own.tiff", tissue_picture(400, 300, 1), mpp=0.5)
    write_slide(folder / "none.tiff", tissue_picture(400, 300, 2), mpp=None)
    return folder


def scales(folder: Path) -> dict[str, float]:
    stores = (TileStore(path) for path in sorted((folder / "slides").glob("*.zarr")))
    return {store.parameters.slide_id: store.parameters.slide_mpp[0] for store in stores}


def test_slide_mpp_fills_in_what_is_missing_and_override_replaces(slides: Path, tmp_path: Path) -> None:
    filled = wsivit.tile(slides, tmp_path / "filled", slide_mpp=0.25, tile_size=64)
    assert scales(tmp_path / "filled") == {"own": pytest.approx(0.5), "none": 0.25}, filled
    over = {"override_slide_mpp": 0.4}
    Cohort(slides, tmp_path / "over").tile(open_options=over, tile_size=64)
    assert scales(tmp_path / "over") == {"own": 0.4, "none": 0.4}
    (tmp_path / "t.csv").write_text(f"slide_id,path,mpp\nown,{slides}/own.tiff,0.3\nnone,{slides}/none.tiff,\n")
    Cohort(tmp_path / "t.csv", tmp_path / "table").tile(open_options={**over, "slide_mpp": 0.2}, tile_size=64)
    assert scales(tmp_path / "table") == {"own": 0.3, "none": 0.4}
    # For one slide given alone it stays the slide's scale, whatever its file says.
    assert wsivit.tile(slides / "own.tiff", tmp_path, slide_mpp=0.25).store.parameters.slide_mpp == (0.25, 0.25)


def test_a_scale_given_later_repeats_only_the_slides_that_need_it(slides: Path, tmp_path: Path) -> None:
    first = Cohort(slides, tmp_path).tile(tile_size=64)
    assert {record.slide_id: record.exit_code for record in first.records} == {"own": 0, "none": 5}
    again = Cohort(tmp_path).tile(tile_size=64)
    assert not again.jobs and "1 failed before and are left as they are: --retry-failed" in again.report()
    retried = Cohort(tmp_path, options=CohortOptions(retry_failed=True)).tile(tile_size=64)
    assert [job.slide.id for job in retried.jobs] == ["none"]
    given = Cohort(tmp_path).tile(tile_size=64, slide_mpp=0.25)
    assert [job.slide.id for job in given.jobs] == ["none"]
    assert {record.state for record in given.records} == {"done"}
    changed = Cohort(tmp_path).tile(tile_size=64, slide_mpp=0.2)
    assert [job.slide.id for job in changed.jobs] == ["none"], "whose scale was the given one"
    assert scales(tmp_path)["none"] == 0.2


def test_predict_after_a_failed_scale_goes_on_with_the_scale(slides: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = wsivit.predict(run, slides, output=tmp_path / "out", batch_size=8)
    assert sorted(record.exit_code for record in first.records) == [0, 5]  # type: ignore[attr-defined]
    again = Cohort(tmp_path / "out").predict(run, open_options={"slide_mpp": 0.5}, batch_size=8)
    assert [job.slide.id for job in again.jobs] == ["none"]
    assert {record.state for record in again.records} == {"done"}


WRONG: dict[str, tuple[dict[str, Any], type[WsivitError]]] = {
    "scale": ({"slide_mpp": -1.0}, ScaleError),
    "absurd scale": ({"open_options": {"override_slide_mpp": 250.0}}, ScaleError),
    "overlap": ({"tile_size": 64, "overlap": 64}, UsageError),
    "mask": ({"tissue": "nowhere.png"}, UsageError),
    "reader": ({"open_options": {"reader": "best"}}, UsageError),
    "colour": ({"open_options": {"jpeg_color": "cmyk"}}, UsageError),
    "unreadable": ({"on_unreadable_tile": "stop"}, UsageError),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_use_stops_a_cohort_before_it_starts(wrong: str, slides: Path, tmp_path: Path) -> None:
    options, kind = WRONG[wrong]
    with pytest.raises(kind):
        Cohort(slides, tmp_path / "out").tile(**options)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_used_stops_a_cohort_before_it_starts(slides: Path, tmp_path: Path) -> None:
    cohort = Cohort(slides, tmp_path / "out")
    with pytest.raises(UsageError, match="uni3"):
        cohort.features("uni3")
    run = make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="cuda"):
        cohort.predict(run, device="cuda:7")
    pictures = make_run(tmp_path / "pictures", mpp=None)
    with pytest.raises(UsageError, match="--mpp"):
        cohort.predict(pictures)
    with pytest.raises(UsageError, match="nobody says the scale"):
        cohort.features(pictures)
    assert not (tmp_path / "out").exists()


def test_annotations_next_to_a_slide_are_used(tmp_path: Path) -> None:
    ring = [[100, 100], [300, 100], [300, 200], [100, 200], [100, 100]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    feature["properties"] = {"classification": {"name": "tumor"}}
    import json

    for name in ("a", "b", "c"):
        write_slide(tmp_path / f"{name}.tiff", tissue_picture(400, 300))
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    (tmp_path / "b.json").write_text('{"patient": 5}')
    done = wsivit.tile(tmp_path, tmp_path / "out", tile_size=64)
    records = {record.slide_id: record for record in done.records}  # type: ignore[attr-defined]
    assert TileStore(tmp_path / "out" / "slides" / "a.zarr").labels == ["region"]
    assert "ANNOTATIONS NOT USED" in records["b"].warning and records["b"].state == "done"
    assert records["c"].warning == ""
    assert wsivit.tile(tmp_path / "a.tiff", tmp_path / "one", tile_size=64).store.labels == ["region"]
    assert wsivit.tile(tmp_path / "a.tiff", tmp_path / "two", tile_size=64, annotations="none").store.labels == []
    with pytest.raises(UsageError, match="not GeoJSON"):
        wsivit.tile(tmp_path / "b.tiff", tmp_path / "three", annotations=tmp_path / "b.json")
    # Drawn again: the labels of the slide are made again, and no other's.
    feature["properties"] = {"classification": {"name": "stroma"}}
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    again = wsivit.tile(tmp_path, tmp_path / "out", tile_size=64)
    assert [job.slide.id for job in again.jobs] == ["a"]  # type: ignore[attr-defined]
    assert TileStore(tmp_path / "out" / "slides" / "a.zarr").label("region").classes == ("stroma",)
