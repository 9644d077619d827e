"""Comparing runs: the same tiles, the same metrics as `evaluate`, and a test between them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.train_helpers import make_run, write_store

from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation import CompareOptions, EvaluateOptions, compare, evaluate
from wsivit.models.run_folder import RunMetadata

CPU = CompareOptions(device="cpu", bootstrap_samples=50)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("stores")
    return [write_store(folder, name, columns=6, rows=4, seed=i).path for i, name in enumerate("abcde")]


def test_each_run_has_the_metrics_it_has_alone(stores: list[Path], tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", seed=1)]
    comparison = compare(runs, stores, output=tmp_path / "c", options=CPU)
    assert (comparison.n, comparison.patients) == (5 * 22, 5)
    for run, entry in zip(runs, comparison.entries, strict=True):
        alone = evaluate(
            run, stores, output=tmp_path / f"e-{run.name}", options=EvaluateOptions(**asdict(CPU), examples=2)
        )
        assert entry.metrics == pytest.approx(alone.metrics)
        assert entry.intervals == alone.intervals
        assert entry.parameters > 100_000 and entry.images_per_second > 0
    assert comparison.entries[0].p_value is None
    assert 0 < comparison.entries[1].p_value <= 1
    table = (tmp_path / "c" / "comparison.md").read_text()
    assert "| one | `test_vit` |" in table and "110 tiles that no run was trained on" in table
    assert "stroma: 55 of 5, tumor: 55 of 5" in table and "over 5 patients" in table
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["patients"] == 5
    with Image.open(tmp_path / "c" / "comparison.png") as picture:
        assert picture.width > 1500
    with pytest.raises(OutputExistsError, match="--force"):
        compare(runs, stores, output=tmp_path / "c", options=CPU)


def test_a_run_against_itself_does_not_differ(stores: list[Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    other = make_run(tmp_path / "same")
    assert compare([run, other], stores, output=tmp_path / "c", options=CPU).entries[1].p_value == 1.0


def test_what_cannot_be_compared_is_refused(stores: list[Path], tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    with pytest.raises(UsageError, match="needs two runs"):
        compare([run], stores, output=tmp_path / "c", options=CPU)
    replace(RunMetadata.read(other), classes=("stroma", "necrosis")).write(other)
    with pytest.raises(UsageError, match="only runs with the same classes"):
        compare([run, other], stores, output=tmp_path / "c", options=CPU)


def test_a_comparison_says_on_how_few_it_rests(stores: list[Path], tmp_path: Path) -> None:
    store = write_store(tmp_path, "few", columns=2, rows=2)
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", seed=1)]
    comparison = compare(runs, [store.path], output=tmp_path / "c", options=CPU)
    assert (comparison.n, comparison.per_class) == (2, {"stroma": (1, 1), "tumor": (1, 1)})
    assert comparison.entries[0].intervals == {} and comparison.entries[1].p_value is None
    table = (tmp_path / "c" / "comparison.md").read_text()
    assert "stroma: 1 of 1, tumor: 1 of 1" in table
    assert "No intervals: the tiles are of one patient or slide" in table and "**So few say nothing" in table


def test_runs_of_other_input_sizes_compare_on_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("stroma", "tumor"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for k in range(6):
            picture = rng.integers(0, 255, (40, 50, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{k}.png")
    small, large = (make_run(tmp_path / f"px{side}", mpp=None, tile_size=side) for side in (32, 48))
    comparison = compare([small, large], [tmp_path / "pictures"], output=tmp_path / "c", options=CPU)
    assert comparison.n == 12
    for run, entry in zip((small, large), comparison.entries, strict=True):
        options = EvaluateOptions(**asdict(CPU), examples=2)
        alone = evaluate(run, [tmp_path / "pictures"], output=tmp_path / f"e-{run.name}", options=options)
        assert entry.metrics == pytest.approx(alone.metrics)
    assert comparison.entries[0].metrics["log_loss"] != comparison.entries[1].metrics["log_loss"]
