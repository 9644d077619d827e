"""Hugging Face habits: a folder of pictures as food-101's, two models, a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.journey import QUICK, step
from support.train_helpers import tissue


def test_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for kind, name in enumerate(("soup", "salad")):
            folder = tmp_path / "food" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(tissue(kind, 48, rng)).save(folder / f"{i}.jpg", quality=95)

    for model in ("test_vit", "test_resnet"):
        done = step(f"wsivit train food --model {model} {QUICK} --learning-rate 1e-3 -o {model}-run")
        assert "test part accuracy" in done.out
        assert (tmp_path / f"{model}-run" / "README.md").is_file()
    done = step("wsivit evaluate test_vit-run food --device cpu --bootstrap-samples 20")
    assert "10 tiles" in done.out or "10 pictures" in done.out
    step("wsivit compare test_vit-run test_resnet-run --data food --device cpu --bootstrap-samples 20")
    assert (tmp_path / "comparison" / "comparison.md").is_file()

    # What people type first, and what they are told.
    assert "did you mean" in step("wsivit train food --modle test_vit -o x", 2).err.lower()
    assert "test_vit" in step(f"wsivit train food --model test_vitt {QUICK} -o x", 2).err
    assert "multiple" in step("wsivit train food --model test_vit --no-pretrained --image-size 100 -o x", 2).err
    assert "--workers must be" in step("wsivit train food --model test_vit --workers -1 -o x", 2).err
    assert not (tmp_path / "x").exists()
