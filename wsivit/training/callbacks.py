"""What happens beside the steps: the progress bar, the curves, the running average of the weights."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wsivit.evaluation import draw_curves
from wsivit.io import writing
from wsivit.training.checkpoints import WRITE_ERRORS

COLUMNS = {
    "epoch": "epoch",
    "step": "step",
    "loss": "train_loss",
    "learning_rate": "learning_rate",
    "eval_loss": "validation_loss",
    "eval_accuracy": "validation_accuracy",
    "eval_balanced_accuracy": "validation_balanced_accuracy",
}
"""The Trainer's names and ours."""
AVERAGE = "average.safetensors"


class Progress(TrainerCallback):
    """One progress bar over all steps, with the figures of the last epoch."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Open the bar where the training begins or goes on."""
        hide = not (self.show and state.is_world_process_zero)
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="batch", disable=hide,
            dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Advance the bar."""
        self.bar.update(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Show the newest figures."""
        metrics: dict[str, float] = more["metrics"]
        self.bar.set_postfix_str(f"held out: accuracy {metrics['eval_accuracy']:.3f}, loss {metrics['eval_loss']:.3f}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Curves(TrainerCallback):
    """Writes ``metrics.csv`` and ``curves.png`` after each epoch, from the Trainer's own history, which resumes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Write the table and draw it."""
        if state.is_world_process_zero:
            rows = epoch_table(state.log_history)
            write_table(self.folder / "metrics.csv", rows)
            draw_curves(self.folder / "curves.png", rows)


class Average(TrainerCallback):
    """Keeps a running average of the weights, and keeps it with each checkpoint.

    Parameters
    ----------
    model : nn.Module
    decay : float
        Share of the average that a step leaves as it is; less in the first steps.
    checkpoint : path, optional
        Where to go on from.
    """

    def __init__(self, model: nn.Module, decay: float, checkpoint: str | None = None) -> None:
        self.model, self.decay = model, decay
        begun = Path(checkpoint) / AVERAGE if checkpoint else None
        self.weights = load_file(begun) if begun else {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Move the average a little towards the newest weights."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for key, new in self.model.state_dict().items():
            old = self.weights[key] = self.weights[key].to(new.device)
            if new.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Write the average into the newest checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
            with writing(folder, errors=WRITE_ERRORS):
                save_file({k: v.contiguous() for k, v in self.weights.items()}, folder / AVERAGE)

    def swap_weights(self) -> None:
        """Put the average into the model and the model's weights aside; again puts them back."""
        newest: dict[str, Tensor] = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        nn.Module.load_state_dict(self.model, self.weights)
        self.weights = newest

    def take_from(self, checkpoint: str | os.PathLike[str]) -> None:
        """Leave the average of a checkpoint in the model."""
        nn.Module.load_state_dict(self.model, load_file(Path(checkpoint) / AVERAGE))


def epoch_table(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Gather the Trainer's log into one row per epoch, under our names."""
    rows: dict[float, dict[str, float]] = {}
    for entry in history:
        if "loss" in entry or "eval_loss" in entry:
            row = rows.setdefault(entry["step"], {})
            row.update({COLUMNS[key]: value for key, value in entry.items() if key in COLUMNS})
    return [rows[step] for step in sorted(rows)]


def write_table(path: str | os.PathLike[str], rows: list[dict[str, float]]) -> None:
    """Write rows as CSV."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS.values()))
        writer.writeheader()
        writer.writerows(rows)
