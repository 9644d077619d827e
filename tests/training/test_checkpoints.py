"""Half a checkpoint is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerState

from wsivit.training.checkpoints import SEAL, is_whole, last_whole, mark_complete


def make(folder: Path, step: int, *, sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (checkpoint / name).write_bytes(b"x" * 100 * step)
    TrainerState(best_global_step=9).save_to_json(str(checkpoint / "trainer_state.json"))
    if sealed:
        mark_complete(checkpoint)
    return checkpoint


def test_the_newest_whole_one_is_gone_on_from_and_others_go(tmp_path: Path) -> None:
    assert last_whole(tmp_path / "none") is None
    make(tmp_path, 8)  # as if killed before it was removed
    make(tmp_path, 9)
    make(tmp_path, 10)
    make(tmp_path, 11, sealed=False)
    assert last_whole(tmp_path) == str(tmp_path / "checkpoint-10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", SEAL])
@pytest.mark.parametrize("how", ["missing", "empty", "cut"])
def test_a_checkpoint_with_a_file_lost_is_none(name: str, how: str, tmp_path: Path) -> None:
    checkpoint = make(tmp_path, 3)
    assert is_whole(checkpoint)
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if how != "missing":
        (checkpoint / name).write_bytes(whole[:-2] if how == "cut" else b"")
    assert not is_whole(checkpoint)
    assert last_whole(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
