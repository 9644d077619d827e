"""Many slides: a table tells what became of each, nothing stops the others, and nothing is done twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import tree_digest

import wsivit
from wsivit.cohort import Cohort, CohortOptions, status, summary
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobLog, Record, _parquet
from wsivit.errors import OutputError, UsageError
from wsivit.slide_list import read_table
from wsivit.store import Predictions, TileStore
from wsivit.tiling import TileOptions

OPTIONS = TileOptions(tile_size=64)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good slides in folders of their own, one with a damaged tile, one without a scale, one that is none."""
    root = tmp_path_factory.mktemp("originals")
    for name, seed in (("a/1.tiff", 1), ("b/1.tiff", 2), ("hurt.tiff", 3)):
        (root / name).parent.mkdir(exist_ok=True)
        write_slide(root / name, tissue_picture(500, 400, seed))
    write_slide(root / "unscaled.tiff", tissue_picture(300, 300), mpp=None)
    (root / "page.svs").write_text("<!DOCTYPE html><html><body>403 Forbidden</body></html>")
    import tifffile

    raw = bytearray((root / "hurt.tiff").read_bytes())
    with tifffile.TiffFile(root / "hurt.tiff") as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    raw[offset : offset + count] = bytes(count)
    (root / "hurt.tiff").write_bytes(raw)
    return root


@pytest.fixture
def slides(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "slides")


STATES = {"a__1": "done", "b__1": "done", "hurt": "partial", "unscaled": "failed", "page": "failed"}
CODES = {"a__1": 0, "b__1": 0, "hurt": 4, "unscaled": 5, "page": 3}


def tile(slides: Path | str, folder: Path, many: CohortOptions = CohortOptions(), options: TileOptions = OPTIONS):  # type: ignore[no-untyped-def]
    return Cohort(slides, folder, many).tile(options)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Tables stay UTF-8 whatever the files are called, and find them again."""
    odd = os.fsdecode(b"caf\xe9.tiff")
    (tmp_path / "slides").mkdir()
    write_slide(tmp_path / "slides" / odd, tissue_picture(300, 300), mpp=None)
    (tmp_path / "slides" / "new\nline %41.svs").write_text("none")
    run = [sys.executable, "-m", "wsivit", "tile", tmp_path / "slides", "-o", tmp_path / "out"]
    first = subprocess.run(run, capture_output=True, check=False)
    assert (first.returncode, first.stdout.count(b"caf\\udce9.tiff")) == (3, 1), first.stderr.decode()
    done = tile(tmp_path / "out", tmp_path / "out", CohortOptions(retry_failed=True))
    assert [Path(job.slide.path).name for job in done.jobs] == [odd, "new\nline %41.svs"]
    reasons = (tmp_path / "out" / "ledger.csv").read_text("utf-8")
    assert "caf\\xe9.tiff: no usable scale" in reasons
    assert b"caf\\xe9.tiff" in _parquet([asdict(record) for record in done.records])
    assert f"{(tmp_path / 'slides' / odd).as_uri()}," in (tmp_path / "out" / "cohort.csv").read_text("utf-8")


def test_the_ledger_tells_of_each_slide(slides: Path, tmp_path: Path) -> None:
    done = tile(slides, tmp_path / "out")
    assert {record.slide_id: record.state for record in done.records} == STATES
    assert done.exit_code == 3
    with (tmp_path / "out" / "ledger.csv").open(newline="") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert {name: row["state"] for name, row in rows.items()} == STATES
    assert {name: int(row["exit_code"]) for name, row in rows.items()} == CODES
    assert "--slide-mpp" in rows["unscaled"]["reason"]
    assert "unreadable" in rows["hurt"]["reason"]
    assert "HTML" in rows["page"]["reason"]
    for name in ("a__1", "hurt"):
        store = TileStore(tmp_path / "out" / "slides" / f"{name}.zarr")
        assert int(rows[name]["tiles"]) == len(store)
        assert int(rows[name]["bytes"]) == sum(file.stat().st_size for file in (store.path / "tiles").glob("c.*"))
        assert store.parameters.slide_id == name
        assert rows[name]["scale"].startswith("0.5 µm/px, ")
        assert rows[name]["fingerprint"] == store.parameters.slide_fingerprint
    assert int(rows["hurt"]["unreadable"]) > 0
    assert float(rows["a__1"]["seconds"]) > 0
    assert f"wsivit {wsivit.__version__}" in rows["a__1"]["versions"]
    assert rows["a__1"]["worker"].endswith(f":{os.getpid()}")


def test_each_store_is_that_of_the_slide_alone(slides: Path, tmp_path: Path) -> None:
    tile(slides, tmp_path / "out")
    alone = wsivit.tile(slides / "hurt.tiff", tmp_path / "alone", OPTIONS).store
    assert tree_digest(alone.path) == tree_digest(tmp_path / "out" / "slides" / "hurt.zarr")


def test_a_second_run_does_nothing(slides: Path, tmp_path: Path) -> None:
    tile(slides, tmp_path / "out")
    before = tree_digest(tmp_path / "out")
    again = tile(slides, tmp_path / "out")
    assert again.jobs == ()
    assert again.exit_code == 3  # what failed, failed
    assert tree_digest(tmp_path / "out") == before


def whys(done) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {job.slide.id: job.why for job in done.jobs}


def test_only_what_changed_is_done_again_and_it_says_why(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tile(slides, out)
    write_slide(slides / "a" / "1.tiff", tissue_picture(520, 400, 9))  # another slide of that name
    os.utime(slides / "b" / "1.tiff")  # the same, copied anew
    write_slide(slides / "unscaled.tiff", tissue_picture(300, 300), mpp=0.5)  # mended
    write_slide(slides / "new.tiff", tissue_picture(300, 300))
    shutil.rmtree(out / "slides" / "hurt.zarr")
    done = tile(slides, out)
    assert whys(done) == {
        "a__1": "its input has changed",
        "unscaled": "its input has changed",
        "new": "new",
        "hurt": "slides/hurt.zarr/zarr.json is missing",
    }
    assert TileStore(out / "slides" / "a__1.zarr").parameters.slide_size == (520, 400)
    assert {record.slide_id for record in done.records if record.state == "failed"} == {"page"}
    assert tile(slides, out).jobs == ()
    other = tile(slides, out, options=replace(OPTIONS, tile_size=32))
    assert set(whys(other)) == {"a__1", "b__1", "hurt", "unscaled", "new", "page"}
    assert whys(other)["b__1"] == "tile_size: was 64, now 32"
    assert TileStore(out / "slides" / "b__1.zarr").grid.tile_size == 32


def test_what_was_to_be_replaced_is_so_after_all(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off, or failed, while other options are put through: the next run goes on with those."""
    out, other = tmp_path / "out", replace(OPTIONS, tile_size=32)
    tile(slides, out)
    with monkeypatch.context() as patch:
        patch.setattr(import_module("wsivit.tiling.tile"), "write_shards", Breaking(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            tile(slides, out, CohortOptions(include="a__1"), other)
        patch.setattr(import_module("wsivit.tiling.tile"), "write_shards", Breaking(OutputError("no space")))
        tile(slides, out, CohortOptions(include="b__1"), other)
    done = tile(slides, out, CohortOptions(include="?__1"), other)
    assert whys(done) == {"a__1": "was interrupted", "b__1": "failed before: no space"}
    assert [record.state for record in done.records] == ["done", "done"]
    assert TileStore(out / "slides" / "a__1.zarr").grid.tile_size == 32


class Breaking:
    """A function that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object) -> None:
        raise self.error


def test_failed_slides_are_tried_again_when_asked(slides: Path, tmp_path: Path) -> None:
    tile(slides, tmp_path / "out")
    again = tile(slides, tmp_path / "out", CohortOptions(retry_failed=True))
    assert set(whys(again)) == {"unscaled", "page"}
    assert "failed before: " in whys(again)["page"]


def test_what_was_broken_off_is_gone_on_with(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module("wsivit.tiling.tile"), "write_preview", stop)
        with pytest.raises(KeyboardInterrupt):
            tile(slides, tmp_path / "out")
    assert status(tmp_path / "out")["tile"][0].state == "running"
    done = tile(slides, tmp_path / "out")
    assert "was interrupted" in whys(done).values()
    assert {record.slide_id: record.state for record in done.records} == STATES


def test_an_error_of_ours_stops_one_slide_only(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("not foreseen")

    with monkeypatch.context() as patch:
        patch.setattr(import_module("wsivit.tiling.tile"), "write_preview", broken)
        done = tile(slides, tmp_path / "out")
    reasons = {record.slide_id: record.reason for record in done.records}
    assert reasons["a__1"] == "ZeroDivisionError: not foreseen"
    assert "HTML" in reasons["page"]
    assert set(whys(tile(slides, tmp_path / "out"))) == {"a__1", "b__1", "hurt"}  # tried again unasked


def test_include_max_slides_and_array_task(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert set(whys(tile(slides, out, CohortOptions(include="a__*")))) == {"a__1"}
    assert len(tile(slides, out, CohortOptions(max_slides=1)).jobs) == 1
    first, second = (whys(tile(slides, out, CohortOptions(array_task=f"{i}/2"))) for i in (1, 2))
    assert not set(first) & set(second)
    assert tile(slides, out).jobs == ()
    with pytest.raises(UsageError, match="no slide is called x"):
        tile(slides, out, CohortOptions(include="x"))


@pytest.mark.parametrize("task", ["0/4", "5/4", "1", "a/b", "1/2/3", "-1/2"])
def test_an_array_task_that_makes_no_sense(task: str) -> None:
    with pytest.raises(UsageError, match="i/n"):
        CohortOptions(array_task=task)


def test_two_cohorts_do_not_mix(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tile(slides / "a", out)
    other = shutil.copytree(slides / "b", tmp_path / "other")
    with pytest.raises(UsageError, match="holds another cohort"):
        tile(other, out)
    (tmp_path / "t.csv").write_text("slide_id,path\n1,other/1.tiff\n")
    with pytest.raises(UsageError, match="another slide called 1"):
        tile(tmp_path / "t.csv", out)
    assert [path.name for path in (out / "slides").glob("*.zarr")] == ["1.zarr"]
    (slides / "a").rename(tmp_path / "moved")
    assert whys(tile(tmp_path / "moved", out)) == {}  # it is the same slide


def test_the_output_is_a_source_for_the_next_verb(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tile(slides, out)
    shutil.rmtree(slides)  # archived
    done = Cohort(out).verify()
    states = {record.slide_id: record.state for record in done.records}
    assert states == {"a__1": "done", "b__1": "done", "hurt": "done", "unscaled": "skipped", "page": "skipped"}
    shard = next((out / "slides" / "a__1.zarr" / "tiles").glob("c.*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert Cohort(out).verify().jobs == ()
    again = Cohort(out, options=CohortOptions(force=True)).verify()
    assert again.exit_code == 8
    assert set(status(out)) == {"tile", "verify"}
    lines = (out / "cohort.csv").read_text().splitlines()
    (out / "good.csv").write_text("\n".join(line for line in lines if "unscaled" not in line and "page" not in line))
    assert [row.id for row in read_table(str(out / "good.csv"))] == ["hurt", "a__1", "b__1"]


def test_many_need_an_output(slides: Path) -> None:
    with pytest.raises(UsageError, match="-o"):
        Cohort(slides)


def test_status_needs_a_cohort(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no cohort\.csv"):
        status(tmp_path)


def test_a_long_ledger_is_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    ledger = JobLog(CohortLayout(tmp_path).files)
    for name in ("a", "b", "c"):
        ledger.write(Record(slide_id=name, verb="tile", tiles=3))
    (tmp_path / ".ledger" / "tile" / "b.json").write_text("{")  # damaged: as good as none
    ledger.write_table(["a", "b", "c"])
    assert (tmp_path / "ledger.csv").read_text().count("\n") == 4
    monkeypatch.setattr("wsivit.cohort.job_log.LONGEST_CSV", 2)
    ledger.write_table(["a", "b", "c"])
    assert not (tmp_path / "ledger.csv").exists()
    table = pq.read_table(tmp_path / "ledger.parquet").to_pylist()
    assert [(row["slide_id"], row["state"], row["tiles"]) for row in table] == [
        ("a", "done", 3), ("b", "not_started", 0), ("c", "done", 3)
    ]  # fmt: skip
    assert json.loads((tmp_path / ".ledger" / "tile" / "a.json").read_text())["state"] == "done"


def test_a_plan_tells_what_it_would_take_and_writes_nothing(slides: Path, tmp_path: Path) -> None:
    for k in range(4):
        write_slide(slides / f"like{k}.tiff", tissue_picture(500, 400, k))
    write_slide(slides / "coarse.tiff", tissue_picture(500, 400), mpp=0.25)
    write_slide(slides / "huge.tiff", tissue_picture(2000, 1800))
    green = tissue_picture(500, 400, 5)
    green[..., 0] = green[..., 0] * 0.6
    write_slide(slides / "green.tiff", green)
    write_slide(slides / "glass.tiff", np.full((400, 500, 3), 243, np.uint8))
    planned = tile(slides, tmp_path / "out", CohortOptions(dry_run=True))
    assert not (tmp_path / "out").exists()
    assert set(whys(planned).values()) == {"new"}
    text = planned.report()
    assert "refused  page: " in text and "(exit code 5)" in text
    assert "outlier  coarse: scale 0.25 µm/px, the others about 0.5" in text
    assert "outlier  huge: 3.6 megapixels, the others about 0.2" in text
    assert "outlier  green: stain: red of the tissue" in text
    assert text.count("outlier") == 3
    assert "empty    glass" in text
    made = tile(slides, tmp_path / "out")
    words = text.split("would write ")[1].split()
    assert int(words[0]) == sum(record.tiles for record in made.records)
    size = float(text.split("slides: ")[1].split()[0]) * 1e9
    assert size == pytest.approx(sum(record.bytes for record in made.records), rel=0.25)
    assert "0 to do" in tile(slides, tmp_path / "out", CohortOptions(dry_run=True)).report()


def test_heatmaps_of_many(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tile(slides, out, CohortOptions(include="?__1"))
    store = TileStore(out / "slides" / "a__1.zarr")
    scores = np.linspace(0, 1, len(store), dtype=np.float32)
    store.write_predictions("vit", Predictions(np.stack([scores, 1 - scores], 1), ("tumor", "normal")))
    drawn = Cohort(out).heatmap(run="vit", formats=("png",))
    records = {record.slide_id: record for record in drawn.records}
    assert records["a__1"].state == "done"
    assert [(out / path).read_bytes()[:4] for path in records["a__1"].outputs] == [b"\x89PNG"]
    assert (records["b__1"].state, records["b__1"].exit_code) == ("failed", 2)  # nothing was predicted there
    assert set(whys(Cohort(out).heatmap(run="vit", formats=("png",)))) == set()
    (out / records["a__1"].outputs[0]).unlink()
    assert "is missing" in whys(Cohort(out).heatmap(run="vit", formats=("png",)))["a__1"]


KILLED = """
import os, signal
from wsivit import Cohort, TileOptions
from wsivit.cohort import tasks
tasks.tile_into = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
Cohort({slides!r}, {out!r}).tile(TileOptions(tile_size=32, tissue="none"))
"""


def test_a_slide_whose_process_was_killed_is_interrupted_and_not_running(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    write_slide(tmp_path / "slides" / "a.tiff", tissue_picture(100, 100))
    slides, out = str(tmp_path / "slides"), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED.format(slides=slides, out=str(out))])
    assert killed.returncode == -signal.SIGKILL
    (record,) = status(out)["tile"]
    assert record.state == "interrupted"
    assert summary([record])[1].startswith(f"interrupted a: new by {socket.gethostname()}:")
    assert ",interrupted," in (out / "ledger.csv").read_text()
    # The same record, if another process, or one of another machine, had written it.
    log, now = JobLog(CohortLayout(out).files), datetime.now(UTC).isoformat(timespec="seconds")
    own, elsewhere = f"{socket.gethostname()}:{os.getpid()}", f"another-{record.worker}"
    for worker, updated, state in (
        (own, now, "running"),
        (own, "2001-01-01T00:00:00+00:00", "interrupted"),  # before this process began: another had its number
        (elsewhere, now, "running"),
    ):
        log.write(replace(record, state="running", worker=worker, updated=updated))
        assert status(out)["tile"][0].state == state
    (job,) = Cohort(slides, out).tile(TileOptions(tile_size=32, tissue="none")).jobs
    assert job.why == "was interrupted"
    assert status(out)["tile"][0].state == "done"
