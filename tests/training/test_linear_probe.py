"""A linear head on stored features: scikit-learn's by hand, its run folder, what it refuses; fine-tuning from it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from support.train_helpers import CLASSES, write_store

from wsivit.data.labelled_tiles import samples_from_stores
from wsivit.data.splits import TEST, TRAIN, TUNE, read_split
from wsivit.errors import StoreMismatchError, UsageError
from wsivit.evaluation import EvaluateOptions, evaluate
from wsivit.inference import FeaturesOptions, features
from wsivit.inference.predict import predict
from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import load_classifier, save_classifier
from wsivit.store import TileStore
from wsivit.training import TrainOptions, train
from wsivit.training.linear_probe import fit_head
from wsivit.training.train import RunResult

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of fixed random weights; "other" next to it has others."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed, name in enumerate(("small", "other")):
        torch.manual_seed(seed)
        save_classifier(create_classifier("test_resnet", ("x", "y"), pretrained=False, image_size=48), folder / name)
    return folder / "small"


@pytest.fixture(scope="module")
def stores(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TileStore]:
    folder = tmp_path_factory.mktemp("stores")
    made = [write_store(folder, f"s{i}", columns=10, rows=5, seed=i, unreadable=(7,) * (i == 0)) for i in range(5)]
    return [features(store, encoder, options=FeaturesOptions(device="cpu")) for store in made]


@pytest.fixture(scope="module")
def run(stores: list[TileStore], encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    output = tmp_path_factory.mktemp("runs") / "head"
    data = [store.path for store in stores[:4]]
    return train(data, encoder=str(encoder), label="region", output=output, options=TrainOptions(device="cpu"))


def test_the_head_is_scikit_learns_with_the_c_that_the_tune_part_likes_best(
    run: RunResult, stores: list[TileStore]
) -> None:
    samples = samples_from_stores([store.path for store in stores[:4]], "region")
    split = read_split(run.folder / "split.csv", samples)
    values = np.concatenate(
        [s.features("small").values[samples.index[samples.source == i]] for i, s in enumerate(stores[:4])]
    ).astype(np.float32)
    patients = [set(samples.patients.code[split.of(side)].tolist()) for side in (TRAIN, TUNE, TEST)]
    assert [len(each) for each in patients] == [2, 1, 1] and len(set.union(*patients)) == 4

    def by_hand(c: float, standardised: bool) -> tuple[float, np.ndarray]:
        given = StandardScaler(with_std=standardised).fit(values[split.of(TRAIN)]).transform(values)
        if not standardised:
            given = given / np.sqrt(values[split.of(TRAIN)].var(axis=0, dtype=np.float64).mean())
        model = LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(
            given[split.of(TRAIN)], samples.code[split.of(TRAIN)]
        )
        scores = model.decision_function(given)
        truth = samples.code[split.of(TUNE)]
        return float(np.logaddexp(0, -scores[split.of(TUNE)] * (2 * truth - 1)).mean()), scores

    probe = run.contract.probe
    losses = {(c, s): by_hand(c, s)[0] for c in (1e-3, 1e-2, 1e-1, 1.0, 10.0) for s in (True, False)}
    loss, scores = by_hand(probe["c"], probe["standardised"])
    assert loss <= min(losses.values()) + 1e-3
    stored = predict(run.folder, stores[0].path).predictions(run.folder.name)
    assert stored.attrs["features"] == "small" and "device" not in stored.attrs, "no network was run"
    ours = stored.logits[samples.index[samples.source == 0]]
    np.testing.assert_allclose(ours[:, 1] - ours[:, 0], scores[samples.source == 0], atol=0.02 * np.abs(scores).max())
    assert np.isnan(stored.probabilities[7]).all()
    temperature = run.contract.temperature
    right = (scores[split.of(TEST)] > 0) == samples.code[split.of(TEST)]
    assert run.test["accuracy"] == pytest.approx(right.mean(), abs=0.03) and run.test["accuracy"] > 0.8
    sure = np.logaddexp(0, -scores[split.of(TEST)] / temperature * (2 * samples.code[split.of(TEST)] - 1)).mean()
    assert run.test["log_loss"] == pytest.approx(sure, abs=0.02)


def test_a_run_of_a_head_predicts_a_store_without_features_by_running_the_encoder(
    run: RunResult, stores: list[TileStore], tmp_path: Path
) -> None:
    bare = write_store(tmp_path, "bare", columns=10, rows=5, seed=4)
    made = predict(run.folder, bare.path).predictions(run.folder.name)
    from_column = predict(run.folder, stores[4].path).predictions(run.folder.name)
    np.testing.assert_allclose(made.logits, from_column.logits, atol=2e-3 * np.abs(made.logits).max())
    assert made.classes == CLASSES and made.attrs["device"] == "cpu"
    truth = bare.label("region").codes
    assert (made.probabilities.argmax(1) == truth)[truth >= 0].mean() > 0.8
    found = evaluate(run.folder, [stores[4].path], options=EvaluateOptions(device="cpu", bootstrap_samples=20))
    assert found.metrics["accuracy"] > 0.8 and found.scores["stored"] == found.n
    card = (run.folder / "README.md").read_text()
    assert "linear head on the features `small`" in card and "Test part, which chose nothing" in card


def test_features_of_another_network_are_refused(
    run: RunResult, stores: list[TileStore], encoder: Path, tmp_path: Path
) -> None:
    other = write_store(tmp_path, "x", columns=10, rows=5, seed=4)
    shutil.copytree(encoder.parent / "other", tmp_path / "small")
    features(other, tmp_path / "small", options=FeaturesOptions(device="cpu"))
    with pytest.raises(StoreMismatchError, match="features 'small' are of other weights"):
        predict(run.folder, other.path)
    with pytest.raises(UsageError, match=r"'small' are of other weights, .* than those of s0"):
        train([stores[0].path, other.path], encoder="small", label="region", output=tmp_path / "run")
    bare = write_store(tmp_path, "bare", columns=10, rows=5)
    with pytest.raises(UsageError, match=r"no features of uni2-h \(it has none\); make them: wsivit features"):
        train([bare.path], encoder="uni2-h", label="region", output=tmp_path / "run")
    with pytest.raises(UsageError, match="--epochs, --lr: for fine-tuning"):
        train(
            [bare.path],
            encoder="small",
            label="region",
            output=tmp_path / "run",
            options=TrainOptions(epochs=3, lr=1e-3),
        )
    with pytest.raises(UsageError, match="give either a model"):
        train([bare.path], label="region", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    moved = replace(run.contract, encoder=run.contract.encoder | {"name": str(encoder.parent / "other")})
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "model.safetensors").write_bytes((run.folder / "model.safetensors").read_bytes())
    moved.write(tmp_path / "head")
    with pytest.raises(StoreMismatchError, match="its head learned from features of"):
        predict(tmp_path / "head", bare.path)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_finds_the_log_odds_of_gaussians(classes: int) -> None:
    """With equal covariances the log-odds are linear, and known."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, (classes, 4))
    scale = np.array([1.0, 100.0, 0.01, 1.0])  # columns of very different sizes

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        codes = rng.integers(0, classes, n)
        return ((means[codes] + rng.normal(0, 1, (n, 4))) * scale).astype(np.float32), codes

    fitted = fit_head(draw(20_000), draw(4000))
    weight = fitted.head.weight - fitted.head.weight.mean(axis=0)
    np.testing.assert_allclose(weight * scale, means - means.mean(axis=0), atol=0.08)
    with pytest.raises(UsageError, match="the same for every tile"):
        fit_head((np.ones((4, 3), np.float32), np.arange(4) % 2), (np.ones((2, 3), np.float32), np.arange(2)))


def test_what_is_reported_can_reach_nothing_that_learns(stores: list[TileStore], encoder: Path, tmp_path: Path) -> None:
    """With every label of the test part turned round, the weights and what was chosen stay, bit for bit."""
    lines = [f"s{i},,{side}" for i, side in enumerate(("train", "train", "tune", "test"))]
    (tmp_path / "split.csv").write_text("\n".join(["source,item,split", *lines]) + "\n")
    tuned = TrainOptions(image_size=48, epochs=1, lr=1e-4, workers=0, device="cpu", split=str(tmp_path / "split.csv"))
    for name, given, options in (
        ("head", {"encoder": str(encoder)}, TrainOptions(device="cpu", split=tuned.split)),
        ("tuned", {"model": str(encoder)}, tuned),
    ):
        made = []
        for turned in (False, True):
            column = stores[3].label("region")
            if turned:
                codes = np.where(column.codes >= 0, 1 - column.codes, column.codes)
                stores[3].write_labels("region", codes.astype(np.int16), CLASSES)
            data = [store.path for store in stores[:4]]
            made.append(train(data, label="region", output=tmp_path / f"{name}{turned}", options=options, **given))
            stores[3].write_labels("region", column.codes, CLASSES)
        first, second = (each.contract for each in made)
        assert first.model_fingerprint == second.model_fingerprint and first.temperature == second.temperature
        assert first.figures["tune"] == second.figures["tune"]
        assert first.figures["test"]["accuracy"] == pytest.approx(1 - second.figures["test"]["accuracy"])


def test_fine_tuning_starts_from_the_probe_and_keeps_it_where_steps_do_harm(
    stores: list[TileStore], encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = [store.path for store in stores[:4]]
    wild = TrainOptions(image_size=48, epochs=1, lr=0.5, workers=0, device="cpu")
    head = train(
        data, encoder=str(encoder), label="region", output=tmp_path / "head", options=TrainOptions(device="cpu")
    )
    with caplog.at_level(logging.WARNING, "wsivit"):
        done = train(data, model=str(encoder), label="region", output=tmp_path / "wild", options=wild)
    assert done.contract.probe["kept"] and "fine-tuning did not help on the tune part" in caplog.text
    assert done.test["accuracy"] == pytest.approx(head.test["accuracy"], abs=0.03)
    assert done.test["log_loss"] == pytest.approx(done.contract.probe["test"]["log_loss"], rel=1e-4)
    assert done.tune["epoch"] == 0
    assert "It is what the run kept" in (done.folder / "README.md").read_text()
    # What was kept is the encoder as it was, its batch statistics too, under the new head.
    before = create_classifier(str(encoder), CLASSES, image_size=48).model.state_dict()
    after = load_classifier(done.folder).model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"timm_model.fc.weight", "timm_model.fc.bias"}
