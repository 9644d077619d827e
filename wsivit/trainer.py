"""``transformers.Trainer`` for tiles: input made on the device in batches, one loss, curves kept as a table."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from wsivit.data.augment import augmentation, normalise, resize
from wsivit.data.dataset import TileDataset
from wsivit.figures import draw_curves
from wsivit.models import Classifier, quiet_transformers

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


@dataclass(frozen=True)
class Recipe:
    """What happens to a batch, beyond what ``TrainingArguments`` say.

    Parameters
    ----------
    augment : str
    label_smoothing : float
    freeze : bool
        Train the head only.
    """

    augment: str = "histology"
    label_smoothing: float = 0.0
    freeze: bool = False


class TileTrainer(Trainer):
    """Trains a classifier on tiles.

    Parameters
    ----------
    classifier : Classifier
    recipe : Recipe
    arguments : transformers.TrainingArguments
    train, validation : TileDataset
    """

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        arguments: TrainingArguments,
        train: TileDataset,
        validation: TileDataset,
    ) -> None:
        super().__init__(
            model=classifier.model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=default_collate,
            compute_metrics=_metrics,
        )
        self.held_out = validation
        self.network, self.preprocessing = classifier.model, classifier.preprocessing
        self.recipe = recipe
        self.augment = augmentation(recipe.augment)
        self.loss_is_scaled_for_ga = False
        if recipe.freeze:
            head = {id(parameter) for parameter in classifier.head}
            for parameter in classifier.model.parameters():
                parameter.requires_grad_(id(parameter) in head)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        moved = super()._prepare_inputs(inputs)
        pictures = resize(moved["pixel_values"], self.preprocessing.image_size)
        if self.network.training:
            pictures = self.augment(pictures)
        moved["pixel_values"] = normalise(pictures, self.preprocessing.mean, self.preprocessing.std)
        return moved

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross entropy, smoothed in training only, so that the held-out loss is what it says."""
        if self.recipe.freeze and model.training:
            _rest(model)
        outputs = model(pixel_values=inputs["pixel_values"])
        smoothing = self.recipe.label_smoothing if model.training else 0.0
        loss = F.cross_entropy(outputs.logits.float(), inputs["labels"], label_smoothing=smoothing)
        return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss


def _rest(model: nn.Module) -> None:
    """Keep the frozen layers as they are: no dropout, no new batch statistics."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _metrics(found: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(found.predictions)
    labels = np.asarray(found.label_ids)
    right: NDArray[np.bool_] = logits.argmax(1) == labels
    recalls = [right[labels == code].mean() for code in np.unique(labels)]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(recalls))}


class Progress(TrainerCallback):
    """One progress bar over all steps, with the figures of the last epoch."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the training begins or goes on."""
        hide = not (self.show and state.is_world_process_zero)
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="batch", disable=hide,
            dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar."""
        self.bar.update(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the newest figures."""
        metrics: dict[str, float] = kwargs["metrics"]
        self.bar.set_postfix_str(f"held out: accuracy {metrics['eval_accuracy']:.3f}, loss {metrics['eval_loss']:.3f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()


class Curves(TrainerCallback):
    """Writes ``metrics.csv`` and ``curves.png`` after each epoch, from the Trainer's own history, which resumes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the table and draw it."""
        if state.is_world_process_zero:
            rows = epoch_table(state.log_history)
            write_table(self.folder / "metrics.csv", rows)
            draw_curves(self.folder / "curves.png", rows)


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


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes
    ----------
    validation : dict of str to float
        Figures of the epoch that was kept, and which that was.
    logits, codes : ndarray (n, classes), (n,)
        Scores and true classes of the held-out part.
    """

    validation: dict[str, float]
    logits: NDArray[np.float32]
    codes: NDArray[np.int64]


def run_training(trainer: TileTrainer, folder: Path, *, progress: bool, checkpoint: str | None) -> Outcome:
    """Train (or go on from a checkpoint), leave the best weights in the model, and measure it."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Curves(folder))
    trainer.add_callback(Progress(progress))
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=checkpoint)
        held_out = trainer.predict(trainer.held_out)
    metrics = held_out.metrics or {}
    figures = {key: float(metrics[f"test_{key}"]) for key in ("accuracy", "balanced_accuracy", "loss")}
    rows = [row for row in epoch_table(trainer.state.log_history) if "validation_loss" in row]
    best = min(rows, key=lambda row: row["validation_loss"])
    logits = np.asarray(held_out.predictions, np.float32)
    return Outcome(figures | {"epoch": best["epoch"]}, logits, np.asarray(held_out.label_ids, np.int64))
