"""From stores and labels to a run, and from the run to new patients: leaks, interruptions, bad input, all verbs."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.patient_cohorts import Study, draw, without_sync, write_features, write_slide

import wsivit
from wsivit.cli.app import main
from wsivit.errors import OutputExistsError, StoreError, StoreMismatchError, UsageError
from wsivit.mil import (
    Ensemble,
    LabelColumns,
    SlideRunResult,
    TrainSlidesOptions,
    compare_patients,
    evaluate_patients,
    predict_patients,
    train_slides,
)
from wsivit.mil.bags import read_bags, window
from wsivit.mil.member import InnerPatients, train_member
from wsivit.mil.nested_folds import make_folds
from wsivit.mil.pack import open_pack
from wsivit.mil.patients import read_patients
from wsivit.models import finished_run
from wsivit.store import TileStore, verify

pytestmark = pytest.mark.usefixtures("one_thread")
LABEL = LabelColumns(label="msi")
FAST = TrainSlidesOptions(
    aggregator="linear", folds=3, repeats=2, permutations=0, bootstrap_samples=50, epochs=3, hidden=8, lr=1e-2
)
ABMIL = replace(FAST, aggregator="abmil", repeats=1)


@pytest.fixture(autouse=True)
def fast_disk():
    with without_sync():
        yield


@pytest.fixture(scope="module")
def linear(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(study, tmp_path_factory.mktemp("runs") / "linear").folder


@pytest.fixture(scope="module")
def abmil(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(study, tmp_path_factory.mktemp("runs") / "abmil", aggregator="abmil", repeats=1).folder


@pytest.fixture
def changeable(study: Study, tmp_path: Path) -> Study:
    """A copy of the study whose stores may be changed."""
    return Study(Path(shutil.copytree(study.folder, tmp_path / "study")), [dict(row) for row in study.rows])


@pytest.fixture(scope="module")
def external_base(tmp_path_factory: pytest.TempPathFactory) -> Study:
    rng, made = np.random.default_rng(9), Study(tmp_path_factory.mktemp("external"))
    for number in range(24):
        name, positive = f"new{number:02}", number % 2 == 1
        with without_sync():
            write_slide(made.folder, name, draw(positive, rng))
        label, site = "MSI" if positive else "MSS", f"s{number % 4 // 2}"
        made.rows.append({"patient": f"n{number}", "slide": name, "msi": label, "site": site})
    return made


@pytest.fixture
def external(external_base: Study, tmp_path: Path) -> Study:
    """A copy of an external cohort whose stores may be changed."""
    return Study(Path(shutil.copytree(external_base.folder, tmp_path / "external")), external_base.rows)


def train(study: Study, output: Path, labels: Path | None = None, **changes: object) -> SlideRunResult:
    options = replace(FAST, **changes)  # type: ignore[arg-type]
    return train_slides(
        study.folder, labels or study.write_labels(), encoder="enc", output=output, columns=LABEL, options=options
    )


def members(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "members").iterdir())}


def out_of_fold(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_has_figures_of_patients_and_what_made_them(linear: Path, study: Study) -> None:
    report = json.loads((linear / "report.json").read_text())
    assert report["patients"] == 36 and report["counts"] == {"MSS": 18, "MSI": 18}
    figures = report["figures"]
    low, high = figures["intervals"]["auroc"]
    assert low < figures["metrics"]["auroc"] < high
    assert figures["metrics"]["auroc"] > 0.75  # the planted shift is found
    assert len(figures["per_repeat"]) == 2
    assert report["sites"]["leave_one_out_mean"] is not None
    rows = out_of_fold(linear)
    assert len(rows) == 72 and {row["repeat"] for row in rows} == {"0", "1"}
    with (linear / "folds.csv").open(newline="") as file:
        folds = list(csv.DictReader(file))
    # Each prediction is by the member in whose fold the patient was tested.
    tested = {(f["repeat"], f["fold"], f["patient"]) for f in folds if f["part"] == "test"}
    assert {(row["repeat"], row["fold"], row["patient"]) for row in rows} == tested
    contract = json.loads((linear / "wsivit.json").read_text())
    assert contract["level"] == "patient"
    assert contract["encoder"] | {"model": ""} == {
        "name": "enc",
        "model": "",
        "fingerprint": "sha256:enc",
        "pooling": "cls",
        "mpp": 0.5,
        "tile_size": 32,
        "dim": 8,
    }
    assert sum(map(len, contract["calibration"].values())) == 72


def test_out_of_fold_predictions_are_those_of_the_member_that_is_shipped(abmil: Path, study: Study) -> None:
    ensemble = Ensemble(abmil)
    rows = {row["patient"]: row for row in out_of_fold(abmil)}
    for name in ("p000", "p007", "p035"):
        row = rows[name]
        tiles = TileStore(study.folder / f"s{name[1:]}.zarr").features("enc").values
        member = ensemble.members[f"repeat{row['repeat']}-fold{row['fold']}"]
        # The order of the tiles differs: their sum rounds in another way.
        np.testing.assert_allclose(member.logits([[tiles]])[0, 0], float(row["logit_MSI"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregator", ["linear", "abmil"])
def test_held_out_labels_and_features_change_no_bit_of_a_member(
    changeable: Study, abmil: Path, linear: Path, tmp_path: Path, aggregator: str
) -> None:
    run = abmil if aggregator == "abmil" else linear
    with (run / "folds.csv").open(newline="") as file:
        folds = [row for row in csv.DictReader(file) if (row["repeat"], row["fold"]) == ("0", "1")]
    held_out = [row["patient"] for row in folds if row["part"] == "test"]
    rng = np.random.default_rng(7)
    for row in changeable.rows:
        if row["patient"] in held_out:  # every second one changes its label, all change their features
            row["msi"] = "MSI" if row["msi"] == "MSS" else "MSS"
            write_features(TileStore(changeable.folder / f"{row['slide']}.zarr"), rng.normal(size=(24, 8)) * 50)
    gone = changeable.rows.pop(int(held_out[0][1:]))  # and one has neither
    labels = changeable.write_labels(tmp_path / "changed.csv")
    how = {"aggregator": aggregator, "repeats": 1, "folds_file": str(run / "folds.csv")}
    other = train(changeable, tmp_path / "run", labels, **how)
    before, after = members(run), members(other.folder)
    assert before["repeat0-fold1.safetensors"] == after["repeat0-fold1.safetensors"]
    assert before["repeat0-fold0.safetensors"] != after["repeat0-fold0.safetensors"]  # which learned from them
    assert gone["patient"] not in {row["patient"] for row in out_of_fold(other.folder)}


def test_trainer_has_no_handle_on_its_test_patients(study: Study) -> None:
    cohort = read_patients(study.folder, study.write_labels(), LABEL)
    bags = read_bags(cohort.patients, "enc", keep_tiles=True)
    for fold in make_folds(cohort, 3, 1):
        inner = InnerPatients.of_fold(cohort, bags, fold, 1)
        assert len(inner.bags) == len(inner.means) == len(inner.targets) == 36 - len(fold.test)
        seen = {id(slide) for slides in inner.bags for slide in slides}
        assert not seen & {id(slide) for place in fold.test for slide in bags.bags[place]}
        learned = inner.targets[inner.train].tolist() + inner.targets[inner.tune].tolist()
        assert learned == cohort.targets[np.concatenate([fold.train, fold.tune])].tolist()


def test_interrupted_run_resumes_and_ends_with_the_same_bytes(
    study: Study, abmil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, how = [], {"aggregator": "abmil", "repeats": 1}

    def stop(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train_member(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr("wsivit.mil.member.train_member", stop)
        with pytest.raises(KeyboardInterrupt):
            train(study, tmp_path / "run", **how)
    assert len(members(tmp_path / "run")) == 1
    with pytest.raises(UsageError, match="the training is not finished"):
        predict_patients(tmp_path / "run", study.folder / "s000.zarr")
    with pytest.raises(OutputExistsError, match="another unfinished run: aggregator"):
        train(study, tmp_path / "run")
    torch.manual_seed(1234)  # the state of the process is nothing to it
    train(study, tmp_path / "run", **how)
    assert members(tmp_path / "run") == members(abmil)
    for name in ("predictions.csv", "folds.csv", "features.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (abmil / name).read_bytes()
    with pytest.raises(OutputExistsError, match="holds a finished run"):
        train(study, abmil, **how)


def test_pack_gives_the_same_weights_and_is_checked(study: Study, abmil: Path, tmp_path: Path) -> None:
    cohort = read_patients(study.folder, study.write_labels(), LABEL)
    in_memory = read_bags(cohort.patients, "enc", keep_tiles=True)
    packed = read_bags(cohort.patients, "enc", keep_tiles=True, pack=tmp_path / "pack", memory_gb=2e-6)
    assert isinstance(packed.bags[0][0], np.memmap)
    for one, other in zip(in_memory.bags, packed.bags, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    fold = make_folds(cohort, 3, 1)[0]
    tensors = [
        train_member(InnerPatients.of_fold(cohort, bags, fold, 1), "abmil", ABMIL, 5, torch.device("cpu"))
        for bags in (in_memory, packed)
    ]
    for name, value in tensors[0].network.state_dict().items():
        assert torch.equal(value, tensors[1].network.state_dict()[name])
    damaged = bytearray((tmp_path / "pack" / "tiles.f16").read_bytes())
    damaged[40] ^= 1
    (tmp_path / "pack" / "tiles.f16").write_bytes(damaged)
    with pytest.raises(StoreError, match="slide 0 of the pack is damaged"):
        list(open_pack(tmp_path / "pack", verify=True))


def test_windows_show_every_tile_once_before_any_twice() -> None:
    tiles = np.arange(20, dtype=np.float16)[:, None]
    seen = np.concatenate([window(tiles, 6, epoch)[:, 0] for epoch in range(10)])
    np.testing.assert_array_equal(seen, np.tile(np.arange(20), 3))
    assert window(tiles, 99, 5) is tiles


def test_new_patients_get_a_probability_a_set_and_a_distance(abmil: Path, external: Study) -> None:
    store = external.folder / "new01.zarr"
    result = predict_patients(abmil, store)
    (patient,) = result.patients
    assert sum(patient.probabilities.values()) == pytest.approx(1)
    assert patient.verdict in ("MSI", "MSS", "abstain")
    assert patient.distance < 2
    kept = TileStore(store).slide_prediction("abmil")
    assert kept["probabilities"] == patient.probabilities and kept["label"] == "msi"
    assert verify(store) == []
    # The ensemble's logit is the mean of the members' calibrated ones.
    ensemble, tiles = Ensemble(abmil), TileStore(store).features("enc").values
    each = [member.logits([[tiles]])[0, 0] for member in ensemble.members.values()]
    assert patient.logits["MSI"] == pytest.approx(np.mean(each), abs=1e-5)
    every = predict_patients(abmil, external.folder)
    assert every.table is not None and len(every.patients) == 24
    assert every.patients[1] == replace(patient, patient=every.patients[1].patient)
    far = write_slide(external.folder, "far", np.full((24, 8), 40.0))
    assert predict_patients(abmil, far).patients[0].distance > 5
    assert wsivit.predict(abmil, store).slide_prediction("abmil") == kept


def test_predictions_of_another_run_are_not_replaced_unasked(abmil: Path, linear: Path, external: Study) -> None:
    store = external.folder / "new00.zarr"
    predict_patients(abmil, store, name="msi")
    with pytest.raises(OutputExistsError, match="slide predictions 'msi' by another run"):
        predict_patients(linear, store, name="msi")
    predict_patients(linear, store, name="msi", force=True)
    assert TileStore(store).slide_prediction("msi")["model_fingerprint"] == Ensemble(linear).run.model_fingerprint


def test_predictions_of_patients_that_were_trained_on_say_so(
    linear: Path, changeable: Study, external: Study, caplog: pytest.LogCaptureFixture
) -> None:
    predict_patients(linear, external.folder / "new00.zarr")
    assert "was trained on" not in caplog.text
    predict_patients(linear, changeable.folder / "s000.zarr")
    assert "was trained on 1 of these 1 patients (s000)" in caplog.text
    with pytest.raises(UsageError, match=r"run of patients.*predict_patients"):
        wsivit.predict(linear, external.folder)


def test_external_cohort_is_measured_by_site_and_known_patients_are_refused(
    linear: Path, external: Study, study: Study, tmp_path: Path
) -> None:
    labels = external.write_labels(tmp_path / "external.csv")
    result = evaluate_patients(linear, [external.folder, labels], output=tmp_path / "evaluation")
    assert result.patients == 24 and set(result.sites) == {"s0", "s1"}
    assert result.metrics["auroc"] > 0.7
    assert result.coverage is not None and result.coverage > 0.7
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["coverage"] == result.coverage
    with pytest.raises(UsageError, match="36 of the patients were trained on"):
        evaluate_patients(linear, [study.folder, study.write_labels()], output=tmp_path / "known")
    renamed = [row | {"patient": f"x{row['patient']}"} for row in study.rows]
    with pytest.raises(UsageError, match="has the content of one that was trained on, of p000"):
        evaluate_patients(
            linear, [study.folder, study.write_labels(tmp_path / "x.csv", renamed)], output=tmp_path / "y"
        )
    with pytest.raises(UsageError, match="msi has grade3; the run knows MSS, MSI"):
        odd = [row | {"msi": "grade3"} for row in external.rows]
        evaluate_patients(linear, [external.folder, external.write_labels(tmp_path / "odd.csv", odd)])


def test_runs_are_compared_by_patient(linear: Path, abmil: Path, external: Study, tmp_path: Path) -> None:
    own = compare_patients([linear, abmil], output=tmp_path / "own")
    assert own.out_of_fold and own.patients == 36
    assert own.runs[0].p_value is None and 0 < own.runs[1].p_value <= 1  # type: ignore[operator]
    same = compare_patients([linear, linear], output=tmp_path / "same")
    assert same.runs[1].p_value == 1.0
    data = [external.folder, external.write_labels(tmp_path / "external.csv")]
    new = wsivit.compare([linear, abmil], data, output=tmp_path / "new")
    assert new.patients == 24 and "patients new to all runs" in (tmp_path / "new" / "comparison.md").read_text()


def test_damaged_and_incomplete_runs_are_refused(linear: Path, external: Study, tmp_path: Path) -> None:
    run, store = Path(shutil.copytree(linear, tmp_path / "run")), external.folder / "new00.zarr"
    member = next((run / "members").iterdir())
    member.write_bytes(member.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="a member of the ensemble was changed"):
        predict_patients(run, store)
    member.unlink()
    with pytest.raises(StoreError, match="is missing: the run is incomplete"):
        predict_patients(run, store)
    with pytest.raises(UsageError, match="is a slide-level run; this needs a tile classifier"):
        finished_run(linear)


def test_features_that_do_not_fit_are_refused(changeable: Study, linear: Path, external: Study, tmp_path: Path) -> None:
    labels = changeable.write_labels(tmp_path / "labels.csv")

    message = r"has no features 'uni2-h' \(it has enc\); run: wsivit features --encoder uni2h"
    with pytest.raises(UsageError, match=message):
        train_slides(changeable.folder, labels, encoder="uni2h", output=tmp_path / "run", columns=LABEL, options=FAST)
    last = TileStore(changeable.folder / "s035.zarr")
    write_features(last, np.zeros((24, 8)), model_fingerprint="sha256:other")
    with pytest.raises(StoreMismatchError, match=r"s035\.zarr.*fingerprint sha256:other instead of sha256:enc"):
        train(changeable, tmp_path / "run", labels)
    write_features(last, np.full((24, 8), np.nan))
    report = train(changeable, tmp_path / "run", labels).report
    assert report.patients == 35
    assert report.left_out["patients: none of its slides has a tile with features"] == 1
    store = external.folder / "new00.zarr"
    write_features(TileStore(store), np.zeros((24, 8)), pooling="mean")
    with pytest.raises(StoreMismatchError, match="pooling mean instead of cls"):
        predict_patients(linear, store)
    other = write_slide(external.folder, "coarse", np.zeros((24, 8)), mpp=1.0)
    with pytest.raises(StoreMismatchError, match=r"scale 1 instead of 0\.5 microns per pixel"):
        predict_patients(linear, other)


def test_one_content_under_two_patients_is_refused(changeable: Study, tmp_path: Path) -> None:
    for part in (changeable.folder.joinpath("s035.zarr", "zarr.json"),):
        text = part.read_text()
        assert "sha256:s035" in text
    shutil.rmtree(changeable.folder / "s035.zarr")
    shutil.copytree(changeable.folder / "s000.zarr", changeable.folder / "s035.zarr")
    labels = changeable.write_labels(tmp_path / "labels.csv")
    with pytest.raises(UsageError, match="s000 of patient p000 and s035 of patient p035 have the same content"):
        train(changeable, tmp_path / "run", labels)


def test_hyper_parameters_are_chosen_and_recorded(study: Study) -> None:
    cohort = read_patients(study.folder, study.write_labels(), LABEL)
    bags = read_bags(cohort.patients, "enc", keep_tiles=True)
    inner = InnerPatients.of_fold(cohort, bags, make_folds(cohort, 3, 1)[0], 1)
    tried = replace(ABMIL, try_values=("lr=1e-9,1e-2",), epochs=6)
    assert train_member(inner, "abmil", tried, 0, torch.device("cpu")).chosen["lr"] == 1e-2
    with pytest.raises(UsageError, match="give NAME=VALUE,VALUE with a name of lr"):
        replace(ABMIL, try_values=("folds=3",))


@pytest.mark.parametrize("aggregator", ["linear", "mean"])
def test_regression_and_survival(study: Study, external: Study, tmp_path: Path, aggregator: str) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for row in study.rows:
        value = float(TileStore(study.folder / f"{row['slide']}.zarr").features("enc").values[:, 0].mean())
        time, event = np.exp(-3 * value + rng.normal() * 0.1), str(int(rng.random() < 0.8))
        rows.append(row | {"score": f"{100 + 10 * value:.4f}", "time": f"{time:.4f}", "event": event})
    labels = study.write_labels(tmp_path / "labels.csv", rows)
    options = replace(FAST, aggregator=aggregator, repeats=1, epochs=20, lr=3e-2)  # type: ignore[arg-type]
    for name, columns in {"r": LabelColumns(label="score"), "c": LabelColumns(time="time", event="event")}.items():
        run = train_slides(
            study.folder, labels, encoder="enc", output=tmp_path / name, columns=columns, options=options
        )
        assert run.report.figures.value > 0.65
        result = predict_patients(run.folder, external.folder / "new01.zarr").patients[0]
        assert result.verdict == "" and len(result.probabilities) == 1
        if name == "r":
            assert 95 < result.probabilities["score"] < 120
            assert run.report.figures.metrics["r2"] > 0.4


def test_command_line(study: Study, external: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        assert done.value.code == 0, capsys.readouterr().err
        return capsys.readouterr().out

    out = tmp_path / "msi"
    how = ["--folds", 3, "--repeats", 1, "--permutations", 2, "--aggregator", "linear", "--site", "site", "-q"]
    text = run(
        "train-slides", study.folder, study.write_labels(), "--label", "msi", "--encoder", "enc", "-o", out, *how
    )
    assert "36 patients (18 MSS, 18 MSI), 36 slides, 864 tiles, 2 sites" in text
    assert "AUROC    0." in text and "chance " in text and "leave one site out" in text
    store = external.folder / "new01.zarr"
    assert "plausible" in run("predict", out, store, "--explain", "-q")
    assert TileStore(store).evidence_runs == ["msi"]
    text = run("evaluate", out, external.folder, external.write_labels(tmp_path / "e.csv"), "-o", tmp_path / "e", "-q")
    assert "24 patients" in text and "prediction sets hold the class" in text
    assert "p by swapping" in run("compare", out, out, "-o", tmp_path / "c", "-q")
    assert "msi_contribution" in run("heatmap", store, "--run", "msi", "--format", "png", "-o", tmp_path)
