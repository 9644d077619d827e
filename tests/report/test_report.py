"""Reports: they say what was measured, keep to their budget, and nothing gets out of its place."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli_helpers import wsivit_
from support.heatmap_helpers import make_store
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run, write_store

import wsivit
from wsivit.errors import InputNotFoundError, StoreError, UsageError
from wsivit.evaluation.metrics import Measurement
from wsivit.heatmap import read_heatmap_data, slide_scores
from wsivit.report import ReportOptions
from wsivit.report.charts import risk_at_coverage
from wsivit.report.slide_report import funnel
from wsivit.report.study_report import LIMITS, STEPS, _levels
from wsivit.store import TileStore

HOSTILE = "<img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """The text of a page, its tags, and every attribute that could fetch or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.sources, self.text = Counter[str](), list[str](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name != "style", "the policy would refuse it"
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.sources.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated on two slides."""
    folder = tmp_path_factory.mktemp("run")
    stores = [write_store(folder, name, columns=8, rows=6, seed=k).path for k, name in enumerate(("one", "two"))]
    run = make_run(folder / "run", temperature=2)
    (run / "metrics.csv").write_text("epoch,train_loss,validation_loss\n1,0.9,0.8\n2,0.7,0.6\n")
    wsivit.evaluate(run, stores)
    return run


def test_a_run_says_what_was_measured(run: Path, tmp_path: Path) -> None:
    (file,) = wsivit.report(run, tmp_path / "run.html")
    page = file.read_text()
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    rows = list(csv.DictReader((run / "evaluation" / "predictions.csv").read_text().splitlines()))
    right = np.mean([row["true"] == row["predicted"] for row in rows])
    commonest = Counter(row["true"] for row in rows).most_common(1)[0][1] / len(rows)
    text = Reader(page).text
    assert f"Accuracy {right:.3f}" in text and f"right on {commonest:.3f} of these {len(rows)} tiles" in text
    for name, value in metrics["metrics"].items():
        assert name.replace("_", " ") in text and f"{value:.3f}" in text
    assert "Surest wrong" in text and "Errors against coverage" in page
    assert len(page) < 2_000_000


def test_the_same_input_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", pixels=True)
    for source in (run, store):
        first, second = (wsivit.report(source, tmp_path / f"{k}.html")[0].read_bytes() for k in (1, 2))
        assert first == second


def test_pages_fetch_and_run_nothing(run: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / f"{HOSTILE.replace('/', '')}.zarr", pixels=True, classes=("normal", "</script><b>x"))
    for source in (run, store):
        page = wsivit.report(source, tmp_path / "page.html")[0].read_text()
        reader = Reader(page)
        assert all(source.startswith("data:image/") for source in reader.sources)
        assert (reader.tags["script"], reader.tags["b"]) == (0, 0)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
        assert policy and "default-src &#39;none&#39;" in policy[1] and "unsafe" not in policy[1]
    assert HOSTILE in reader.text and "</script><b>x" in reader.text


def test_a_slide_has_the_numbers_of_aggregate(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", overlap=32, pixels=True, unreadable=(3,))
    page = wsivit.report(store, tmp_path / "s.html", ReportOptions(threshold=0.4))[0].read_text()
    data = read_heatmap_data(store)
    tumor = slide_scores(
        data.probabilities[data.predicted], dict.fromkeys(data.classes, 0.4), data.scores, (0.25, 0.25)
    )[1]
    text = Reader(page).text
    assert f"{tumor.area_fraction:.1%} of the predicted tissue" in text
    assert f"{tumor.largest_focus_mm2:.3f} mm²" in text
    assert len(page) < 1_500_000


def test_the_funnel_counts_what_tile_chose(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(900, 800))
    store = wsivit.tile(slide, tmp_path, wsivit.TileOptions(tile_size=64, min_tissue=0.4)).store
    every = wsivit.tile(slide, tmp_path / "all", wsivit.TileOptions(tile_size=64, min_tissue=0)).store
    counts = dict(funnel(store, None))
    assert counts["positions in the grid"] == len(store.grid) == len(every)
    assert counts["with any tissue"] == (every.tissue_fraction > 0).sum()
    assert counts["with at least 0.4 tissue"] == len(store) == counts["readable"]


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60))
def test_errors_at_each_coverage(tiles: list[tuple[float, bool]]) -> None:
    confidence = np.array([0.5 + value / 2 for value, _ in tiles])
    right = np.array([good for _, good in tiles])
    measured = Measurement(np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1))
    coverage, risk = risk_at_coverage(measured)
    assert risk[-1] == pytest.approx(np.mean(measured.predicted != measured.truth))
    assert coverage[-1] == 1 and (np.diff(coverage) > 0).all()
    surest = measured.confidence == measured.confidence.max()
    k = int(surest.sum())
    assert risk[k - 1] == pytest.approx((measured.predicted != measured.truth)[surest].mean())


@given(st.integers(0, STEPS), st.integers(0, STEPS), st.integers(0, 10))
def test_sliders_decide_as_tile_does(least: int, most: int, seed: int) -> None:
    class Shares:
        def __init__(self) -> None:
            rng = np.random.default_rng(seed)
            exact = np.arange(0, STEPS + 1) / STEPS
            self.tissue_fraction = np.concatenate([exact, rng.random(40)]).astype(np.float32)
            self.qc = {"pen": rng.permutation(self.tissue_fraction)}

        def __len__(self) -> int:
            return len(self.tissue_fraction)

    store = Shares()
    levels = _levels(store)  # type: ignore[arg-type]
    kept = sum(count for level, count in levels.items() if level[0] >= least and level[LIMITS.index("pen")] <= most)
    assert kept == ((store.tissue_fraction >= least / STEPS) & (store.qc["pen"] <= most / STEPS)).sum()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 40 slides of two sites, one of which cannot be read, and of predictions."""
    root = tmp_path_factory.mktemp("study") / "study"
    folder = root.parent / "slides"
    folder.mkdir()
    for k in range(3):
        write_slide(folder / f"patient-{k}.tiff", tissue_picture(500, 400, seed=k))
    (folder / "broken.tiff").write_bytes(b"II*\0nonsense")
    rows = [f"patient-{k}.tiff,{('north', 'south')[k == 2]},{('a', 'b')[k == 2]}" for k in range(3)]
    (folder / "slides.csv").write_text("\n".join(["path,site,label", *rows, "broken.tiff,south,b"]))
    wsivit.Cohort(folder / "slides.csv", root).tile(wsivit.TileOptions(tile_size=64))
    return root


def test_a_study_says_what_failed_and_what_follows_the_site(study: Path, tmp_path: Path) -> None:
    (file,) = wsivit.report(study, tmp_path / "study.html")
    reader = Reader(file.read_text())
    assert "4 slides, 3 with tiles" in reader.text and "truncated" in reader.text
    assert "2 of 2 sites have one value of label only" in reader.text
    assert reader.tags["img"] == 3 and reader.tags["li"] == 4
    tiles = sum(len(TileStore(path)) for path in (study / "slides").glob("*.zarr"))
    assert f"{tiles} tiles kept" in reader.text


def test_pseudonyms_leave_no_name(study: Path, run: Path, tmp_path: Path) -> None:
    store = TileStore(study / "slides" / "patient-1.zarr")
    for source, planted in ((study, ("patient-", "broken", str(study))), (store, ("patient-1",)), (run, (str(run),))):
        page = wsivit.report(source, tmp_path / "p.html", ReportOptions(pseudonyms=True))[0].read_text()
        assert [name for name in planted if name in page] == []
        assert re.search(r"slide \d", page)


def test_a_large_study_keeps_to_its_budget(study: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    shutil.copytree(study, large)
    store = large / "slides" / "patient-0.zarr"
    for k in range(1000):
        (large / "slides" / f"s{k}.zarr").symlink_to(store)
    rows = [f"s{k},slides/s{k}.zarr,{('north', 'south')[k % 2]}" for k in range(1000)]
    (large / "cohort.csv").write_text("\n".join(["slide_id,store,site", *rows]))
    (file,) = wsivit.report(large, tmp_path / "large.html")
    assert file.stat().st_size < 500_000 + 1000 * 5_000
    assert Reader(file.read_text()).tags["li"] == 1000


def test_what_cannot_be_reported(run: Path, study: Path, tmp_path: Path) -> None:
    store = TileStore(study / "slides" / "patient-1.zarr")
    with pytest.raises(InputNotFoundError, match="no such run"):
        wsivit.report(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="neither a run folder"):
        wsivit.report(tmp_path / "folder")
    with pytest.raises(UsageError, match=r"an \.html file"):
        wsivit.report(store, tmp_path / "report.pdf")
    with pytest.raises(UsageError, match="no column grade"):
        wsivit.report(study, tmp_path / "r.html", ReportOptions(label="grade"))
    with pytest.raises(UsageError, match="two reports"):
        wsivit.report([store, store], tmp_path)
    with pytest.raises(UsageError, match="threshold"):
        ReportOptions(threshold=2)
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "evaluation" / "predictions.csv").write_text("source,item\n1,2\n")
    with pytest.raises(StoreError, match="evaluate … --force"):
        wsivit.report(damaged, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_the_command(run: Path, tmp_path: Path) -> None:
    done = wsivit_("report", run, "-o", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"wrote    {tmp_path / 'a.html'}"
    refused = wsivit_("report", tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
