"""torch.compile on request: the same training, and a folder that knows nothing of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.train_helpers import write_store
from transformers import AutoModelForImageClassification

from wsivit.models.classifier_folder import load_classifier
from wsivit.training import arguments
from wsivit.training.train import TrainOptions, train


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_compiled_training_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as on request, but not turned into machine code, which takes minutes."""
    quick = partial(arguments.TrainingArguments, torch_compile_backend="aot_eager")
    monkeypatch.setattr(arguments, "TrainingArguments", quick)
    store = write_store(tmp_path, "s", columns=12, rows=8).path
    options = TrainOptions(
        pretrained=False, image_size=48, epochs=1, batch_size=16, lr=2e-3, workers=0, device="cpu", augment="none"
    )
    runs = [
        train([store], label="region", model="test_vit", output=tmp_path / str(compiled), options=how)
        for compiled, how in ((False, options), (True, replace(options, compile=True)))
    ]
    plain, compiled = (run.test["log_loss"] for run in runs)
    assert compiled == pytest.approx(plain, rel=0.02)
    assert load_classifier(runs[1].folder).classes == ("stroma", "tumor")
    AutoModelForImageClassification.from_pretrained(runs[1].folder)
