"""What accompanies the steps: progress bar, curves, running average of the weights, and the watch over NaN."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wsivit.errors import UsageError
from wsivit.evaluation import draw_curves
from wsivit.io import writing
from wsivit.models import non_finite
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
_EVERY = 16
"""Steps between two questions to a GPU whether the losses are finite: each question waits for it."""


class Progress(TrainerCallback):
    """One progress bar over all steps, with the metrics of the last epoch."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Open the bar where the training begins or resumes."""
        hide = None if self.show and state.is_world_process_zero else True  # None: where there is no terminal
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="batch", disable=hide,
            dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Advance the bar."""
        self.bar.update(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Show the newest metrics."""
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
            with (self.folder / "metrics.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(COLUMNS.values()))
                writer.writeheader()
                writer.writerows(rows)
            draw_curves(self.folder / "curves.png", rows)


def epoch_table(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Turn the Trainer's log into one row per epoch, under our names."""
    rows: dict[float, dict[str, float]] = {}
    for entry in history:
        if "loss" in entry or "eval_loss" in entry:
            row = rows.setdefault(entry["step"], {})
            row.update({COLUMNS[key]: value for key, value in entry.items() if key in COLUMNS})
    return [rows[step] for step in sorted(rows)]


class Average(TrainerCallback):
    """Keeps a running average of the weights, also in each checkpoint.

    torch's ``AveragedModel`` would be a second network; the Trainer evaluates, compiles and saves the one it has, so
    here the tensors change places.

    Parameters
    ----------
    model : nn.Module
    decay : float
        Share of the average that a step leaves as it is; less in the first steps.
    checkpoint : path, optional
        To resume from.
    """

    def __init__(self, model: nn.Module, decay: float, checkpoint: str | None = None) -> None:
        self.model, self.decay = model, decay
        start = Path(checkpoint) / AVERAGE if checkpoint else None
        self.weights = load_file(start) if start else {k: v.detach().clone() for k, v in model.state_dict().items()}

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
        """Exchange the weights of the model and the average; a second call restores them."""
        newest: dict[str, Tensor] = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        nn.Module.load_state_dict(self.model, self.weights)
        self.weights = newest

    def load_into_model(self, checkpoint: str | os.PathLike[str]) -> None:
        """Put the average of a checkpoint into the model."""
        nn.Module.load_state_dict(self.model, load_file(Path(checkpoint) / AVERAGE))


class Health:
    """Stops a training at the first loss, score or weight that is not finite, before anything of it is saved.

    Parameters
    ----------
    lr : float
    pretrained : bool
        Both for the advice.
    """

    def __init__(self, lr: float, pretrained: bool = True) -> None:
        self.lr, self.pretrained = lr, pretrained
        self._first: Tensor | None = None  # step of the first bad loss, -1 for none, on the device

    def watch_loss(self, loss: Tensor, state: TrainerState) -> None:
        """Note whether the loss of a step is finite, without waiting for a GPU."""
        step = state.global_step + 1
        if self._first is None:
            self._first = torch.full((), -1, dtype=torch.int64, device=loss.device)
        bad = ~loss.detach().isfinite() & (self._first < 0)
        self._first = torch.where(bad, step, self._first)
        if loss.device.type == "cpu" or step % _EVERY == 0:
            self.check_losses(state)

    def check_losses(self, state: TrainerState) -> None:
        """Raise where a loss so far is not finite."""
        step = -1 if self._first is None else int(self._first)
        if step >= 0:
            raise self._stop("the loss is", step, state)

    def check_scores(self, scores: NDArray[np.floating], state: TrainerState) -> None:
        """Raise where scores of held-out pictures are not finite."""
        if not np.isfinite(scores).all():
            raise self._stop("the scores of held-out pictures are", state.global_step, state)

    def check_weights(self, network: nn.Module, state: TrainerState) -> None:
        """Raise where weights are not finite; to be called before they are saved."""
        broken = non_finite(network)
        if broken:
            raise self._stop(f"{broken}, and they are", state.global_step, state)

    def _stop(self, what: str, step: int, state: TrainerState) -> UsageError:
        if step <= 1:
            others = "another --model or --weights, or --no-pretrained" if self.pretrained else "another --model"
            advice = (
                f"nothing was learned before it, so the weights that it started from overflow: take others ({others})"
            )
        else:
            advice = f"try a lower learning rate (--lr {self.lr / 10:.2g}) in another output folder"
        of = f" of {state.max_steps}" if state.max_steps else ""
        return UsageError(
            f"the training stopped at step {step}{of}: {what} not finite (NaN or infinity), nothing of it was saved; "
            f"{advice}"
        )
