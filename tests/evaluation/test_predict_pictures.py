"""Pictures through a model that learned from pictures: the table says what the network says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli_helpers import wsivit_
from support.train_helpers import CLASSES, make_run, tissue

import wsivit
from wsivit.errors import OutputExistsError, UsageError
from wsivit.models.classifier import load_classifier
from wsivit.models.model_input import normalise


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for i, place in enumerate(("a", "a", "b/c", ".")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(tissue(i % 2, 32, rng)).save(folder / place / f"{i}.png")
    (folder / "b" / "torn.jpg").write_bytes(b"no picture")
    return folder


def test_the_table_says_what_the_network_says(pictures: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", mpp=None, tile_size=32, temperature=2)  # the input's own size
    done = wsivit.predict_pictures(run, pictures, output=tmp_path / "out", options=wsivit.PredictOptions(device="cpu"))
    with done.table.open() as file:
        rows = list(csv.DictReader(file))
    names = [str(Path(row["picture"]).relative_to(pictures)) for row in rows]
    assert names == ["3.png", "a/0.png", "a/1.png", "b/c/2.png", "b/torn.jpg"] and done.damaged == 1
    assert set(rows[-1].values()) == {str(pictures / "b" / "torn.jpg"), ""}
    pixels = torch.empty((4, 32, 32, 3), dtype=torch.uint8)
    for place, row in zip(pixels, rows[:4], strict=True):
        with Image.open(row["picture"]) as picture:
            place.copy_(torch.from_numpy(np.array(picture)))
    made = load_classifier(run)
    with torch.no_grad():
        given = normalise(pixels.permute(0, 3, 1, 2).float() / 255, made.preprocessing.mean, made.preprocessing.std)
        wanted = torch.softmax(made.model(pixel_values=given).logits / 2, 1).numpy()
    np.testing.assert_allclose([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows[:4]], wanted, atol=1e-5)
    assert [row["predicted"] for row in rows[:4]] == [CLASSES[k] for k in wanted.argmax(1)]
    assert sum(done.counts.values()) == 4
    with Image.open(done.sheet) as sheet:
        assert sheet.width > sheet.height > 100
    with pytest.raises(OutputExistsError, match="--force"):
        wsivit.predict_pictures(run, pictures, output=tmp_path / "out")


def test_predict_on_the_command_line_takes_pictures_and_says_what_it_could_not_read(
    pictures: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", mpp=None)
    done = wsivit_("predict", run, pictures, "-o", tmp_path / "out", "--device", "cpu", "-q")
    assert done.returncode == 4 and "1 more cannot be read" in done.stdout
    assert (tmp_path / "out" / "predictions.csv").is_file()


def test_a_model_of_slides_and_a_folder_without_pictures_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="learned from tiles of slides"):
        wsivit.predict_pictures(make_run(tmp_path / "slides"), pictures)
    run = make_run(tmp_path / "run", mpp=None)
    (tmp_path / "empty").mkdir()
    for given in ("empty", "missing.png"):
        with pytest.raises(UsageError, match="there is no picture"):
            wsivit.predict_pictures(run, tmp_path / given, output=tmp_path / "out")
    with pytest.raises(UsageError, match=r"none of the 1 pictures .*torn"):
        wsivit.predict_pictures(run, [pictures / "b" / "torn.jpg"], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
