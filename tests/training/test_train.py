"""Training: it learns what can be learned, keeps its contract, and goes on after a kill."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.train_helpers import tissue, write_store
from transformers import AutoModelForImageClassification

from wsivit.errors import OutputExistsError, StoreError, UsageError
from wsivit.evaluation import EvaluateOptions, evaluate
from wsivit.inference.predict import predict
from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import load_classifier, save_classifier
from wsivit.models.run_folder import RunMetadata
from wsivit.models.weights import weights_fingerprint
from wsivit.store import TileStore
from wsivit.training import TileTrainer
from wsivit.training.train import RunResult, TrainOptions, _warn_if_below_baseline, train

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = TrainOptions(pretrained=False, image_size=48, epochs=3, batch_size=16, lr=2e-3, workers=0, device="cpu")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[TileStore, TileStore]:
    folder = tmp_path_factory.mktemp("slides")
    return write_store(folder, "one", columns=24, rows=12), write_store(folder, "two", seed=9, unreadable=(7,))


@pytest.fixture(scope="module")
def vit(slides: tuple[TileStore, TileStore], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    output = tmp_path_factory.mktemp("runs") / "vit"
    return train([slides[0].path], label="region", model="test_vit", output=output, options=QUICK)


def accuracy(run: Path, store: TileStore) -> float:
    predicted = predict(run, store.path).predictions(run.name)
    truth = store.label("region").codes
    known = (truth >= 0) & ~np.isnan(predicted.probabilities[:, 0])
    return float((predicted.probabilities[known].argmax(1) == truth[known]).mean())


def test_a_vit_learns_and_holds_on_another_slide(
    vit: RunResult, slides: tuple[TileStore, TileStore], caplog: pytest.LogCaptureFixture
) -> None:
    assert vit.test["accuracy"] > 0.95
    with caplog.at_level(logging.INFO, "wsivit"):
        assert accuracy(vit.folder, slides[1]) > 0.95
    assert caplog.text.count("running vit on cpu in fp32") == 1


def test_a_resnet_learns_and_holds_on_another_slide(slides: tuple[TileStore, TileStore], tmp_path: Path) -> None:
    longer = replace(QUICK, epochs=10)  # batch statistics need some steps to settle
    result = train([slides[0].path], label="region", model="test_resnet", output=tmp_path / "resnet", options=longer)
    assert accuracy(result.folder, slides[1]) > 0.95


def test_the_run_folder_is_the_contract(vit: RunResult, slides: tuple[TileStore, TileStore]) -> None:
    run = RunMetadata.read(vit.folder)
    assert run == vit.contract
    assert (run.model, run.label, run.classes) == ("test_vit", "region", ("stroma", "tumor"))
    assert (run.mpp, run.tile_size, run.preprocessing.image_size) == (0.5, 48, 48)
    assert run.model_fingerprint == weights_fingerprint(vit.folder)
    assert run.data[0]["fingerprint"] == slides[0].parameters.slide_fingerprint
    assert sum(run.data[0][side] for side in ("train", "tune", "test", "left out")) == 24 * 12 - 2
    assert set(run.figures) == {"test", "tune", "costs"} and run.probe == {}, "from scratch there is no probe"
    assert "/" not in json.dumps([run.data, run.split["file"]])
    rows = (vit.folder / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,step,train_loss") and len(rows) == 4
    with Image.open(vit.folder / "curves.png") as curves:
        assert curves.width > 1000
    card = (vit.folder / "README.md").read_text()
    assert "stroma, tumor" in card and "0.5 microns per pixel" in card
    assert sorted(p.name for p in vit.folder.iterdir()) == [
        "README.md", "augmented.png", "checkpoints", "config.json", "curves.png", "metrics.csv", "model.safetensors",
        "split.csv", "wsivit.json",
    ]  # fmt: skip


def test_the_saved_model_is_the_one_that_was_measured(vit: RunResult, slides: tuple[TileStore, TileStore]) -> None:
    """The figures of both parts come again from the folder, by plain transformers and our own arithmetic."""
    from wsivit.data.labelled_tiles import samples_from_stores
    from wsivit.data.splits import TEST, TUNE, read_split
    from wsivit.models.model_input import normalise, resize

    store = slides[0].path
    samples = samples_from_stores([store], "region")
    split = read_split(vit.folder / "split.csv", samples)
    preprocessing = load_classifier(vit.folder).preprocessing
    model = AutoModelForImageClassification.from_pretrained(vit.folder).eval()
    for side, figures in ((TUNE, vit.tune), (TEST, vit.test)):
        held = samples.take(split.of(side))
        pixels = torch.from_numpy(held.read(np.arange(len(held)))).permute(0, 3, 1, 2)
        with torch.no_grad():
            made = model(pixel_values=normalise(resize(pixels, 48), preprocessing.mean, preprocessing.std)).logits
        loss = torch.nn.functional.cross_entropy(made / vit.contract.temperature, torch.from_numpy(held.code))
        assert loss.item() == pytest.approx(figures["log_loss"], rel=1e-4)


def test_the_same_seed_gives_the_same_run_with_any_number_of_workers(
    slides: tuple[TileStore, TileStore], tmp_path: Path
) -> None:
    runs = [
        train(
            [slides[1].path],
            label="region",
            model="test_vit",
            output=tmp_path / str(workers),
            options=replace(QUICK, epochs=1, workers=workers),
        )
        for workers in (0, 1)
    ]
    assert runs[0].contract.model_fingerprint == runs[1].contract.model_fingerprint


def killed_at(epoch: int) -> Callable[..., None]:
    def stop(self: object, args: object, state: object, control: object, **more: object) -> None:
        if state.epoch >= epoch:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    return stop


def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    vit: RunResult, slides: tuple[TileStore, TileStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"label": "region", "model": "test_vit", "output": tmp_path / "vit", "options": QUICK}
    half = tmp_path / "vit" / ".tmp-1-0a-wsivit.json"  # as if killed before, while the contract was written
    half.parent.mkdir()
    half.touch()
    with monkeypatch.context() as patch:
        patch.setattr("wsivit.training.callbacks.Curves.on_epoch_begin", killed_at(2), raising=False)
        with pytest.raises(KeyboardInterrupt):
            train([slides[0].path], **arguments)
    assert not RunMetadata.read(tmp_path / "vit").done
    assert not half.exists()
    with pytest.raises(UsageError, match="not finished"):
        predict(tmp_path / "vit", slides[1].path)
    with pytest.raises(OutputExistsError, match=r"another unfinished run: options: .*asked for"):
        train([slides[0].path], **arguments | {"options": replace(QUICK, lr=1e-3)})
    torn = tmp_path / "vit" / "checkpoints" / "checkpoint-999"  # as if killed while it was written
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    again = train([slides[0].path], **arguments)
    assert (tmp_path / "vit" / "metrics.csv").read_text() == (vit.folder / "metrics.csv").read_text()
    assert again.contract.model_fingerprint == vit.contract.model_fingerprint


def test_every_option_at_once_resumes_exactly_as_well(
    slides: tuple[TileStore, TileStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(
        QUICK, epochs=2, mixup=0.2, cutmix=0.5, ema=0.9, balance="sampling", accumulate=2, layer_decay=0.8, workers=1
    )
    options = replace(options, pretrained=True, lr=1e-4)  # so that it starts from a linear probe as well
    save_classifier(create_classifier("test_resnet", ("x", "y"), pretrained=False, image_size=48), tmp_path / "start")
    arguments = {"label": "region", "model": str(tmp_path / "start"), "options": options}
    whole = train([slides[1].path], output=tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr("wsivit.training.callbacks.Average.on_epoch_begin", killed_at(1), raising=False)
        with pytest.raises(KeyboardInterrupt):
            train([slides[1].path], output=tmp_path / "broken", **arguments)
    again = train([slides[1].path], output=tmp_path / "broken", **arguments)
    assert (tmp_path / "broken" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    assert again.contract.model_fingerprint == whole.contract.model_fingerprint
    assert again.contract.probe == whole.contract.probe and again.contract.probe["test"]["accuracy"] > 0.5


def test_what_was_chosen_is_said_recorded_and_logged(
    slides: tuple[TileStore, TileStore],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Balance in the log, rules resolved in the record, an allowed leak on the card, TensorBoard, early stopping."""
    store = slides[1]
    lines = [f"two,{c}/{r},{'validation' if r < 2 else 'train'}" for c, r in zip(store.col, store.row, strict=True)]
    (tmp_path / "split.csv").write_text("\n".join(["source,item,split", *lines]) + "\n")
    options = replace(
        QUICK, epochs=9, lr=None, patience=1, balance="weights", report_to="tensorboard",
        split=str(tmp_path / "split.csv"), allow_leakage=True,
    )  # fmt: skip
    losses = iter(range(1, 10))
    whole = TileTrainer.evaluation_loop

    def worse_every_time(self: TileTrainer, *args: Any, **kwargs: Any) -> Any:
        found = whole(self, *args, **kwargs)
        return found._replace(metrics=found.metrics | {f"{kwargs['metric_key_prefix']}_loss": float(next(losses))})

    monkeypatch.setattr(TileTrainer, "evaluation_loop", worse_every_time)
    with caplog.at_level(logging.INFO, "wsivit"):
        run = train([store.path], label="region", model="test_vit", output=tmp_path / "run", options=options)
    assert "classes count alike, by weights in the loss: stroma " in caplog.text
    assert caplog.text.count("training on cpu in float32") == 1
    assert "2 of 127 tiles have no label and are left out" in caplog.text
    recorded = run.contract.options
    assert (recorded["augment"], recorded["layer_decay"], recorded["lr"]) == ("histology", 1.0, 1e-3)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3, "it stops after the second epoch"
    assert run.tune["epoch"] == 1
    assert {leak.split()[0] for leak in run.contract.split["leaks"]} == {"patient", "slide"}
    assert "Leak, allowed on request" in (tmp_path / "run" / "README.md").read_text()
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert run.costs["memory_mb"] > 50
    with pytest.raises(UsageError, match="--report-to carrier-pigeon"):
        odd = replace(options, report_to="carrier-pigeon")
        train([store.path], label="region", model="test_vit", output=tmp_path / "odd", options=odd)


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 2, 24 * 12).astype(np.int16)
    noise = write_store(tmp_path, "noise", columns=24, rows=12, codes=codes)
    options = replace(QUICK, epochs=2, holdout=0.3)
    result = train([noise.path], label="region", model="test_vit", output=tmp_path / "run", options=options)
    n = sum(result.counts["test"].values())
    assert n > 50
    assert abs(result.test["accuracy"] - 0.5) < 3 * np.sqrt(0.25 / n)


def test_the_backbone_rests_in_a_linear_probe(slides: tuple[TileStore, TileStore], tmp_path: Path) -> None:
    start = create_classifier("test_resnet", ("x", "y", "z"), pretrained=False, image_size=48)
    save_classifier(start, tmp_path / "start")
    options = TrainOptions(freeze=True, epochs=1, image_size=48, workers=0, device="cpu")
    result = train(
        [slides[1].path], label="region", model=str(tmp_path / "start"), output=tmp_path / "r", options=options
    )
    before, after = start.model.state_dict(), load_classifier(result.folder).model.state_dict()
    changed = {
        key for key in before if before[key].shape != after[key].shape or not torch.equal(before[key], after[key])
    }
    assert changed == {"timm_model.fc.weight", "timm_model.fc.bias"}


def test_a_finished_run_and_another_folder_are_left_alone(
    vit: RunResult, slides: tuple[TileStore, TileStore], tmp_path: Path
) -> None:
    arguments = {"label": "region", "model": "test_vit", "options": QUICK}
    with pytest.raises(OutputExistsError, match="finished run"):
        train([slides[0].path], output=vit.folder, **arguments)
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(OutputExistsError, match="exists and is no run"):
        train([slides[0].path], output=tmp_path, **arguments)
    assert (tmp_path / "thesis.doc").read_text() == "years of work"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be from 1"),
        ({"batch_size": 0}, "batch_size must be from 1"),
        ({"workers": -1}, "workers must be from 0"),
        ({"image_size": 0}, "image_size must be from 8"),
        ({"patience": 0}, "patience must be from 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be from 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"holdout": 0.0}, "holdout must be above 0"),
        ({"augment": "strong"}, "augment must be one of auto, histology"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"folds": 3, "fold": 4}, "fold must be from 1 to 3"),
    ],
)
def test_options_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainOptions(**values)  # type: ignore[arg-type]


def test_a_model_that_nobody_knows_is_refused_before_the_data_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model 'test_vitt'.*test_vit"):
        train([tmp_path / "nowhere.zarr"], label="region", model="test_vitt", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("accuracy", "balanced", "told"), [(0.8, 0.5, True), (0.7, 0.75, False), (0.81, 0.51, False)])
def test_a_model_that_is_worth_nothing_is_called_that(
    accuracy: float, balanced: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    measured = {"accuracy": accuracy, "balanced_accuracy": balanced}
    _warn_if_below_baseline(measured, {"stroma": 80, "tumor": 20, "fat": 0})
    assert ("no better (accuracy 0.800) than always answering stroma (0.800)" in caplog.text) == told


def test_a_run_of_another_version_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="wsivit train makes one"):
        RunMetadata.read(tmp_path)
    (tmp_path / "wsivit.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="run format 99"):
        RunMetadata.read(tmp_path)
    (tmp_path / "wsivit.json").write_text('{"format": 1}')
    with pytest.raises(StoreError, match="damaged"):
        RunMetadata.read(tmp_path)
    (tmp_path / "wsivit.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        RunMetadata.read(tmp_path)


def test_pictures_in_folders_go_through_the_same_code(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("test", 8)):
        for kind, name in enumerate(("few", "many")):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(tissue(kind, 48, rng)).save(tmp_path / "set" / part / name / f"{i}.png")
    options = replace(QUICK, epochs=6)
    result = train([tmp_path / "set"], model="test_vit", output=tmp_path / "run", options=options)
    assert result.counts["test"] == {"few": 8, "many": 8}
    assert result.contract.mpp is None
    found = evaluate(tmp_path / "run", [tmp_path / "set"], options=EvaluateOptions(device="cpu", bootstrap_samples=50))
    assert found.n == 16, "the test part alone is unseen"
    assert found.metrics["accuracy"] > 0.8


def test_a_class_that_is_only_held_out_is_refused(slides: tuple[TileStore, TileStore], tmp_path: Path) -> None:
    store = slides[1]
    lines = [f"two,{c}/{r},{'train' if c < 6 else 'validation'}" for c, r in zip(store.col, store.row, strict=True)]
    (tmp_path / "split.csv").write_text("\n".join(["source,item,split", *lines]) + "\n")
    options = replace(QUICK, split=str(tmp_path / "split.csv"), split_by="region")
    with pytest.raises(UsageError, match="no training picture is tumor"):
        train([store.path], label="region", model="test_vit", output=tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()
