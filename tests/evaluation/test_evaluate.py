"""Evaluation: the metrics are those of the predictions, of tiles that the run has not seen."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk
from support.train_helpers import CLASSES, make_run, write_store

from wsivit.data.labelled_tiles import Samples, samples_from_stores
from wsivit.data.splits import split_samples, write_split
from wsivit.errors import OutputExistsError, StoreMismatchError, UsageError
from wsivit.evaluation import EvaluateOptions, evaluate
from wsivit.inference import PredictOptions, predict
from wsivit.models.run_folder import RunMetadata
from wsivit.store import TileStore

CPU = EvaluateOptions(device="cpu", bootstrap_samples=50, examples=2)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[TileStore]:
    folder = tmp_path_factory.mktemp("stores")
    return [write_store(folder, name, columns=6, rows=5, seed=i) for i, name in enumerate("abcde")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "vit", temperature=1.5)


def test_the_metrics_are_those_of_the_predictions(run: Path, stores: list[TileStore], tmp_path: Path) -> None:
    result = evaluate(run, [s.path for s in stores], output=tmp_path / "e", options=CPU)
    with (tmp_path / "e" / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == result.n == 5 * (6 * 5 - 2)
    truth = np.array([CLASSES.index(line["true"]) for line in lines])
    p = np.array([[float(line[f"p_{name}"]) for name in CLASSES] for line in lines])
    assert result.metrics["accuracy"] == pytest.approx(sk.accuracy_score(truth, p.argmax(1)))
    assert result.metrics["auroc"] == pytest.approx(sk.roc_auc_score(truth, p[:, 1]), abs=1e-4)
    assert result.metrics["log_loss"] == pytest.approx(sk.log_loss(truth, p / p.sum(1, keepdims=True)), rel=1e-4)
    report = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert report["metrics"] == result.metrics
    assert report["confusion"] == sk.confusion_matrix(truth, p.argmax(1)).tolist()
    assert set(report["per_slide"]) == set("abcde")
    low, high = report["intervals_95"]["accuracy"]
    assert report["patients"] == 5 and low <= result.metrics["accuracy"] <= high
    assert report["missing_intervals"] == "" and set(report["intervals_95"]) == set(result.metrics)
    for name in ("confusion", "roc", "reliability", "examples"):
        with Image.open(tmp_path / "e" / f"{name}.png") as picture:
            assert min(picture.size) > 300


def test_tiles_that_were_trained_on_are_left_out(stores: list[TileStore], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    samples = samples_from_stores([stores[0].path], "region")
    split = split_samples(samples)
    write_split(run / "split.csv", samples, split)
    data = [{"id": "a", "fingerprint": stores[0].parameters.slide_fingerprint}]
    replace(RunMetadata.read(run), data=data, split={"file": "split.csv"}).write(run)
    both = [stores[0].path, stores[1].path]
    unseen = evaluate(run, both, output=tmp_path / "unseen", options=CPU)
    assert unseen.n == 28 + (split.side == 1).sum()
    every = evaluate(run, both, output=tmp_path / "all", options=replace(CPU, subset="all"))
    assert every.n == 56
    write_split(run / "split.csv", samples, replace(split, side=np.zeros_like(split.side)))
    with pytest.raises(UsageError, match="all of these tiles were used to train"):
        evaluate(run, [stores[0].path], output=tmp_path / "none", options=CPU)


def test_scores_that_predict_stored_are_taken_where_they_are_this_models(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [write_store(tmp_path, name, columns=8, rows=6, seed=i) for i, name in enumerate("ab")]
    afresh = evaluate(
        run, [s.path for s in stores], output=tmp_path / "afresh", options=replace(CPU, reuse_predictions=False)
    )
    predict(run, stores[0].path, name="another", options=PredictOptions(device="cpu"))
    predict(make_run(tmp_path / "other", seed=5), stores[1].path, options=PredictOptions(device="cpu"))
    scored: list[int] = []
    whole = sys.modules[evaluate.__module__].score_samples

    def counted(scorer: object, samples: Samples, **more: int) -> object:
        scored.append(len(samples))
        return whole(scorer, samples, **more)

    monkeypatch.setattr(sys.modules[evaluate.__module__], "score_samples", counted)
    result = evaluate(run, [s.path for s in stores], output=tmp_path / "stored", options=CPU)
    assert scored == [46], "the second store alone, whose predictions are another model's"
    assert result.metrics == pytest.approx(afresh.metrics, abs=1e-5)
    evaluate(run, [stores[0].path], output=tmp_path / "all", options=CPU)
    assert scored == [46], "nothing is left to run"
    report = json.loads((tmp_path / "stored" / "metrics.json").read_text())
    assert report["scores"] == {"stored": 46, "computed": 46, "unreadable": 0}


def test_one_slide_gives_no_intervals(run: Path, stores: list[TileStore], tmp_path: Path) -> None:
    result = evaluate(run, [stores[0].path], output=tmp_path / "e", options=CPU)
    assert (result.intervals, result.patients) == ({}, 1)
    assert result.missing_intervals.startswith("no intervals: the tiles are of one patient or slide")


def test_examples_are_some_and_not_too_many(run: Path, tmp_path: Path) -> None:
    for count in (0, -3, 241):
        with pytest.raises(UsageError, match=f"examples must be from 1 to 240, not {count}"):
            EvaluateOptions(examples=count)
    store = write_store(tmp_path, "s", columns=4, rows=2)
    evaluate(run, [store.path], output=tmp_path / "e", options=replace(CPU, examples=240))
    with Image.open(tmp_path / "e" / "examples.png") as picture:
        assert picture.size == (150 * 2 * 6, int(150 * 2.25))  # all six readable tiles, right or wrong


def test_what_cannot_be_measured_is_refused(run: Path, stores: list[TileStore], tmp_path: Path) -> None:
    other = write_store(tmp_path, "other", columns=4, rows=2)
    other.write_labels("region", np.arange(8) % 2, ["tumor", "necrosis"])
    with pytest.raises(UsageError, match="does not know: necrosis"):
        evaluate(run, [other.path], output=tmp_path / "e", options=CPU)
    coarse = write_store(tmp_path, "coarse", columns=4, rows=2, mpp=1.0)
    with pytest.raises(StoreMismatchError, match=r"coarse is at 1 microns per pixel, the run at 0\.5"):
        evaluate(run, [coarse.path], output=tmp_path / "e", options=CPU)
    evaluate(run, [stores[0].path], output=tmp_path / "e", options=CPU)
    with pytest.raises(OutputExistsError, match="--force"):
        evaluate(run, [stores[0].path], output=tmp_path / "e", options=CPU)
    evaluate(run, [stores[0].path], output=tmp_path / "e", options=replace(CPU, force=True))


def test_the_order_of_the_classes_is_the_runs(run: Path, tmp_path: Path) -> None:
    """A store that knows only the run's second class, under its first code."""
    store = write_store(tmp_path, "s", columns=4, rows=2)
    store.write_labels("region", np.zeros(8), ["tumor"])
    result = evaluate(run, [store.path], output=tmp_path / "e", options=CPU)
    predicted = json.loads((tmp_path / "e" / "metrics.json").read_text())["confusion"]
    assert sum(predicted[1]) == 8 and sum(predicted[0]) == 0
    assert np.isnan(result.metrics["auroc"])
