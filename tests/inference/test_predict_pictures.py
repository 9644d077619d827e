"""Pictures in, a table and a sheet out, with the figures that `evaluate` finds for the same pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.train_helpers import CLASSES, make_run

from wsivit.errors import UsageError
from wsivit.evaluation import EvaluateOptions, evaluate
from wsivit.inference import ScoringOptions, predict_pictures

CPU = ScoringOptions(device="cpu", batch_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for k in range(7):
            pixels = rng.integers(0, 255, (40 + k, 50, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


def test_the_table_has_what_evaluate_finds(folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", mpp=None, tile_size=32, temperature=2)
    found = predict_pictures(run, folder, output=tmp_path / "out", options=CPU)
    evaluate(run, [folder], output=tmp_path / "e", options=EvaluateOptions(device="cpu", examples=1))
    with (tmp_path / "e" / "predictions.csv").open() as file:
        expected = {row["item"]: float(row["p_tumor"]) for row in csv.DictReader(file)}
    with found.table.open() as file:
        rows = {row["picture"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(expected) and len(rows) == 14
    for name, p in expected.items():
        assert float(rows[name]["p_tumor"]) == pytest.approx(p, abs=1e-4)
        assert rows[name]["predicted"] == CLASSES[int(p > 0.5)]
    with Image.open(found.sheet) as sheet:
        assert sheet.width == 1620 and sheet.height > 700
    one = predict_pictures(run, folder / "tumor" / "3.png", output=tmp_path / "one", options=CPU)
    assert one.names == ("3.png",)
    assert one.probabilities[0, 1] == pytest.approx(expected["tumor/3.png"], abs=1e-4)


def test_a_damaged_picture_has_a_row_without_numbers(folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", mpp=None, tile_size=32)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    found = predict_pictures(run, [folder, bad], output=tmp_path / "out", options=CPU)
    assert np.isnan(found.probabilities[-1]).all() and np.isfinite(found.probabilities[:-1]).all()
    assert found.table.read_text().splitlines()[-1].endswith("bad.png,,,")


def test_what_is_not_of_pictures_is_refused(folder: Path, tmp_path: Path) -> None:
    of_slides = make_run(tmp_path / "slides")
    with pytest.raises(UsageError, match="trained on tiles of slides"):
        predict_pictures(of_slides, folder)
    run = make_run(tmp_path / "small", mpp=None, tile_size=32)
    with pytest.raises(UsageError, match="no such picture or folder"):
        predict_pictures(run, tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no pictures"):
        predict_pictures(run, tmp_path / "empty")
