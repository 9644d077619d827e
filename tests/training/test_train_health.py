"""A training that goes wrong says so and stops: no NaN is learned, saved or waited for."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.train_helpers import tissue, write_store
from torch import Tensor
from transformers import TrainerState, ViTConfig, ViTForImageClassification, ViTImageProcessor

from wsivit.data.labelled_tiles import Samples
from wsivit.errors import LimitError, UsageError
from wsivit.models import open_model
from wsivit.models.classifier import create_classifier
from wsivit.models.run_folder import RunMetadata
from wsivit.training import TileTrainer, arguments
from wsivit.training.callbacks import Health
from wsivit.training.train import TrainOptions, train

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = TrainOptions(image_size=32, epochs=2, batch_size=32, lr=1e-3, workers=0, device="cpu")
SCRATCH = replace(QUICK, pretrained=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores"), "s", columns=12, rows=8).path


def published_vit(folder: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTForImageClassification(config).to(dtype).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_type_train_in_float32(tmp_path: Path, store: Path, dtype: torch.dtype) -> None:
    folder = published_vit(tmp_path / "published", dtype)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    output = tmp_path / "run"
    done = train([store], label="region", model=str(folder), output=output, options=QUICK)
    assert np.isfinite(done.test["log_loss"])
    state = load_file(output / "model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in state.values())
    network = open_model(folder).load()  # and as it was published
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_half_weights_of_a_file_train_in_float32_too(tmp_path: Path) -> None:
    published = published_vit(tmp_path / "published", torch.float32)
    state = {k: v.bfloat16() for k, v in load_file(published / "model.safetensors").items()}
    save_file(state, tmp_path / "half.safetensors")
    made = create_classifier(str(published), ["a", "b"], weights=tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    assert torch.equal(made.model.vit.embeddings.cls_token, state["vit.embeddings.cls_token"].float())


def test_weights_that_are_nan_are_no_start(tmp_path: Path) -> None:
    published = published_vit(tmp_path / "published", torch.float32)
    state = load_file(published / "model.safetensors")
    state["vit.embeddings.cls_token"][0, 0, 3] = float("nan")
    save_file(state, published / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"1 of \d+ tensors hold NaN or infinity \(the first is vit\.embeddings\.cls"):
        create_classifier(str(published), ["a", "b"])


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, value: float) -> None:
    """Make the loss of one step something that is no number."""
    own = TileTrainer.make_input

    def make_input(self: TileTrainer, pixels: Tensor, *, augment: bool) -> Tensor:
        made = own(self, pixels, augment=augment)
        return made * value if augment and self.state.global_step + 1 == at else made

    monkeypatch.setattr(TileTrainer, "make_input", make_input)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoil(monkeypatch, 2, value)
    with pytest.raises(UsageError, match=r"stopped at step 2 of 2: the loss is not finite.*--lr 0\.0001") as error:
        train([store], label="region", model="test_vit", output=tmp_path / "run", options=SCRATCH)
    assert error.value.exit_code == 2
    assert not RunMetadata.read(tmp_path / "run").done
    assert not (tmp_path / "run" / "model.safetensors").exists()
    for file in (tmp_path / "run").rglob("*.safetensors"):  # the epoch before
        assert all(value.isfinite().all() for value in load_file(file).values())


def test_a_start_that_overflows_is_not_blamed_on_the_learning_rate(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 1, float("nan"))
    with pytest.raises(UsageError, match=r"step 1 of 2.*take others"):
        train([store], label="region", model="test_vit", output=tmp_path / "run", options=SCRATCH)


def test_weights_that_become_infinite_in_the_last_step_are_not_kept(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = TileTrainer._save_checkpoint

    def save(self: TileTrainer, *args: Any) -> None:
        next(iter(self.network.parameters())).data.view(-1)[0] = float("inf")
        own(self, *args)

    monkeypatch.setattr(TileTrainer, "_save_checkpoint", save)
    with pytest.raises(UsageError, match="tensors hold NaN or infinity"):
        train([store], label="region", model="test_vit", output=tmp_path / "run", options=SCRATCH)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_gpu_is_not_asked_at_every_step_but_the_step_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    health, state = Health(1e-3), TrainerState(max_steps=100)
    device = torch.device("meta")  # stands for one whose values take long to come by
    monkeypatch.setattr(torch.Tensor, "device", property(lambda self: device), raising=False)
    monkeypatch.setattr(torch, "full", lambda size, value, **how: torch.tensor(value))
    for step in range(15):
        state.global_step = step
        health.watch_loss(torch.tensor(float("nan") if step == 6 else 0.5), state)
    with pytest.raises(UsageError, match="stopped at step 7 of 100"):
        health.check_losses(state)


@pytest.mark.parametrize(
    ("free", "processes", "wanted", "kept"),
    [
        (64_000_000, 1, 6, 0),  # a container: one would fit, threads are faster than that
        (2_000_000_000, 1, 6, 6),
        (150_000_000, 1, 6, 3),
        (150_000_000, 2, 6, 0),
        (0, 1, 1, 0),
        (0, 1, 0, 0),
        (None, 1, 6, 6),  # no such file system
    ],
)
def test_as_many_workers_as_shared_memory_holds(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int | None,
    processes: int,
    wanted: int,
    kept: int,
) -> None:
    monkeypatch.setattr(arguments, "free_shared_memory", lambda: free)
    batch = 2 * 32 * 3 * 256 * 256
    assert arguments.fitting_workers(wanted, batch, processes) == kept
    assert len(caplog.records) == (kept < wanted)
    if kept < wanted:
        assert "/dev/shm has" in caplog.text
        assert (f"{kept} workers" if kept else "threads of this process") in caplog.text


def small_shared_memory(code: str, size: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a mount namespace of its own, with a /dev/shm of so many bytes."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare (util-linux)")
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    for how in (["-m"], ["-r", "-m"]):
        if subprocess.run([unshare, *how, "sh", "-c", mount], capture_output=True).returncode == 0:
            shell = [unshare, *how, "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, code]
            return subprocess.run(shell, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    pytest.skip("mount namespaces are not permitted here")


PROGRAM = """
import logging
logging.basicConfig(level=logging.WARNING)
from wsivit.training import TrainOptions, train
from wsivit.errors import WsivitError
{prepare}
options = TrainOptions(pretrained=False, image_size=32, epochs=1, workers=2, device="cpu", batch_size=32)
try:
    done = train([{store!r}], label="region", model="test_vit", output={output!r}, options=options)
    print("trained", done.test["log_loss"])
except WsivitError as error:
    print(type(error).__name__, error)
"""


def test_a_containers_shared_memory_is_enough(tmp_path: Path, store: Path) -> None:
    done = small_shared_memory(PROGRAM.format(prepare="", store=str(store), output=str(tmp_path / "run")), "512k")
    assert "trained" in done.stdout, done.stderr
    assert "tiles are read by threads of this process" in done.stderr


def test_shared_memory_that_runs_out_ends_the_run(tmp_path: Path, store: Path) -> None:
    blind = "import wsivit.training.arguments as a; a.fitting_workers = lambda wanted, *rest: wanted"
    done = small_shared_memory(PROGRAM.format(prepare=blind, store=str(store), output=str(tmp_path / "run")), "128k")
    assert re.search(r"LimitError a process that reads tiles .*--shm-size.*--workers 0", done.stdout), done.stderr


def test_a_worker_that_is_killed_ends_the_run(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, parent = Samples.read_skipping_unreadable, os.getpid()

    def read_skipping_unreadable(self: Samples, *args: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, *args)

    monkeypatch.setattr(Samples, "read_skipping_unreadable", read_skipping_unreadable)
    with pytest.raises(LimitError, match=r"a process that reads tiles died .*resumes"):
        train([store], label="region", model="test_vit", output=tmp_path / "run", options=replace(SCRATCH, workers=1))


def test_white_pictures_and_lost_classes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    for name in ("glass", "tumor"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.full((64, 64, 3), 255, np.uint8) if name == "glass" else tissue(1, 64, rng)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    with caplog.at_level(logging.WARNING, "wsivit"):
        done = train([tmp_path / "data"], model="test_vit", output=tmp_path / "run", options=SCRATCH)
    (warning,) = [text for text in done.contract.split["warnings"] if "EMPTY" in text]
    assert "pictures of 'glass' looked at are one colour (on average 255/255/255)" in warning
    assert warning in caplog.text
    assert warning in (tmp_path / "run" / "README.md").read_text()
    with Image.open(tmp_path / "run" / "augmented.png") as drawn:  # in red above the pictures
        red, green, blue = np.asarray(drawn.convert("RGB"), np.int16)[: drawn.height // 3].transpose(2, 0, 1)
    assert ((red > green + 80) & (red > blue + 80)).sum() > 100
    codes = write_store(tmp_path, "two", columns=12, rows=8).label("region").codes.copy()
    lost = write_store(tmp_path, "lost", columns=12, rows=8)
    codes[:] = np.arange(len(codes)) % 2
    lost.write_labels("kind", codes, ("a", "b", "necrosis"))
    done = train([lost.path], label="kind", model="test_vit", output=tmp_path / "three", options=SCRATCH)
    assert any("CLASS WITHOUT PICTURES: 'necrosis'" in text for text in done.contract.split["warnings"])
