"""Checkpoints that are whole, or are none: each is sealed when all of it is on disk, and an older one goes after that.

A training that is killed while it writes a checkpoint goes on from the one before.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wsivit.errors import StoreError
from wsivit.io import LocalFiles, sync_folder

SEAL = "whole.json"
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What writing a checkpoint may raise: torch and safetensors have their own errors."""
_NAME = "checkpoint-"


class CheckpointMarker(TrainerCallback):
    """Seals each checkpoint, and removes those that are neither the newest nor the best. Must be the last callback."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Seal what was saved, once all processes have."""
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir or ".")
            mark_complete(folder / f"{_NAME}{state.global_step}")
            _keep(folder, {state.global_step, state.best_global_step})


@contextmanager
def reading(checkpoint: str | os.PathLike[str] | None) -> Iterator[None]:
    """Make what goes wrong with a checkpoint's reading a StoreError; torch refuses what is no plain data."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise StoreError(
            f"{checkpoint}: the checkpoint is damaged, or not what the training wrote: remove it, and run again"
        ) from error


def mark_complete(checkpoint: Path) -> None:
    """Bring a checkpoint to the disk, and say of its files how long they are."""
    sizes = {}
    for file in sorted(checkpoint.iterdir()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            sizes[file.name] = os.fstat(handle.fileno()).st_size
    LocalFiles(checkpoint).write(SEAL, [json.dumps(sizes, indent=2).encode()])
    sync_folder(checkpoint.parent)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was sealed and its files are as long as they were then."""
    try:
        sizes = json.loads((checkpoint / SEAL).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_whole(folder: Path) -> str | None:
    """Return the newest checkpoint that is whole, and remove all but that and the best; None where there is none."""
    steps = [_step(checkpoint) for checkpoint in folder.glob(f"{_NAME}*")] if folder.is_dir() else []
    whole = [step for step in steps if is_whole(folder / f"{_NAME}{step}")]
    if not whole:
        _keep(folder, set())
        return None
    newest = folder / f"{_NAME}{max(whole)}"
    with reading(newest):
        state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
    # A run that is broken off between the seal and the removal of an older checkpoint leaves that to the next.
    _keep(folder, {max(whole), state.best_global_step} & set(whole))
    return str(newest)


def _keep(folder: Path, steps: set[int | None]) -> None:
    for checkpoint in folder.glob(f"{_NAME}*"):
        if _step(checkpoint) not in steps:
            (checkpoint / SEAL).unlink(missing_ok=True)  # first: half a checkpoint must not look like a whole one
            shutil.rmtree(checkpoint)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_NAME))
