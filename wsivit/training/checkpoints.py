"""Checkpoints are complete or do not count: each is marked once all of it is on disk, and older ones go after that.

A training that is killed while it writes a checkpoint resumes from the one before.
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

from wsivit.errors import OutputError, StoreError
from wsivit.io import LocalFiles, sync_folder

MARKER = "complete.json"
_NAME = "checkpoint-"


class CheckpointMarker(TrainerCallback):
    """Marks each checkpoint, and removes those that are neither the newest nor the best. Must be the last callback."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Mark what was saved, once all processes have saved."""
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir or ".")
            mark_complete(folder / f"{_NAME}{state.global_step}")
            _keep(folder, {state.global_step, state.best_global_step})


# `wsivit.io.writing` converts OSError alone; torch and safetensors raise their own errors where a disk is full.
@contextmanager
def checkpoint_write_errors(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Convert the errors of writing a checkpoint to OutputError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(f"cannot write a checkpoint in {folder}: {error}") from error


@contextmanager
def checkpoint_read_errors(checkpoint: str | os.PathLike[str] | None) -> Iterator[None]:
    """Convert the errors of reading a checkpoint to StoreError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise StoreError(
            f"{checkpoint}: the checkpoint is damaged, or not what the training wrote: remove it, and run again"
        ) from error


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint to disk, then write the sizes of its files next to them."""
    sizes = {}
    for file in sorted(checkpoint.iterdir()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            sizes[file.name] = os.fstat(handle.fileno()).st_size
    LocalFiles(checkpoint).write(MARKER, [json.dumps(sizes, indent=2).encode()])
    sync_folder(checkpoint.parent)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is marked and its files still have the sizes of then."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_complete(folder: Path) -> str | None:
    """Return the newest complete checkpoint, and remove all but that and the best; None where there is none."""
    steps = [_step(checkpoint) for checkpoint in folder.glob(f"{_NAME}*")] if folder.is_dir() else []
    complete = {step for step in steps if is_complete(folder / f"{_NAME}{step}")}
    if not complete:
        _keep(folder, set())
        return None
    newest = folder / f"{_NAME}{max(complete)}"
    with checkpoint_read_errors(newest):
        state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
    # A run that is killed between marking a checkpoint and removing an older one leaves that to the next run.
    _keep(folder, {max(complete), state.best_global_step} & complete)
    return str(newest)


def _keep(folder: Path, steps: set[int | None] | set[int]) -> None:
    for checkpoint in folder.glob(f"{_NAME}*"):
        if _step(checkpoint) not in steps:
            (checkpoint / MARKER).unlink(missing_ok=True)  # first: a half-removed checkpoint must not look complete
            shutil.rmtree(checkpoint)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_NAME))
