"""An incomplete checkpoint does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerState

from wsivit.training.checkpoints import MARKER, is_complete, last_complete, mark_complete


def make(folder: Path, step: int, *, marked: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (checkpoint / name).write_bytes(b"x" * 100 * step)
    TrainerState(best_global_step=9).save_to_json(str(checkpoint / "trainer_state.json"))
    if marked:
        mark_complete(checkpoint)
    return checkpoint


def test_the_newest_complete_checkpoint_is_kept_and_others_are_removed(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "none") is None
    make(tmp_path, 8)  # as if killed before it was removed
    make(tmp_path, 9)
    make(tmp_path, 10)
    make(tmp_path, 11, marked=False)
    assert last_complete(tmp_path) == str(tmp_path / "checkpoint-10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", MARKER])
@pytest.mark.parametrize("how", ["missing", "empty", "cut"])
def test_a_checkpoint_with_a_damaged_file_does_not_count(name: str, how: str, tmp_path: Path) -> None:
    checkpoint = make(tmp_path, 3)
    assert is_complete(checkpoint)
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if how != "missing":
        (checkpoint / name).write_bytes(whole[:-2] if how == "cut" else b"")
    assert not is_complete(checkpoint)
    assert last_complete(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
