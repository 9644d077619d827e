"""The Trainer itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from wsivit.data import IndexedSource, OrderOptions, Samples, TileDataset, augmentation, collate, epoch_order, shards_of
from wsivit.errors import LimitError, WsivitError
from wsivit.evaluation import draw_augmented
from wsivit.inference import keep_freed_memory
from wsivit.io import writing
from wsivit.models import Classifier, fit_tiles, normalise_pictures, quiet_transformers
from wsivit.training.callbacks import Average, Curves, Progress, epoch_table
from wsivit.training.checkpoints import WRITE_ERRORS, CheckpointMarker, reading
from wsivit.training.health import Health
from wsivit.training.mixup import mix
from wsivit.training.optimizer import has_attention, make_optimizer


@dataclass(frozen=True)
class Recipe:
    """What happens in a step, beyond what ``TrainingArguments`` say.

    Parameters
    ----------
    augment : str
    label_smoothing : float
    freeze : bool
        Train the head only.
    layer_decay : float
        For transformers; 1 is off.
    mixup, cutmix : float
        0 is off.
    ema : float
        Decay of the running average of the weights; 0 is off.
    balance : {"none", "weights", "sampling"}
        How rare classes are made to count as much as common ones.
    patience : int, optional
        Stop after so many epochs without a better held-out loss.
    """

    augment: str = "histology"
    label_smoothing: float = 0.0
    freeze: bool = False
    layer_decay: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    balance: Literal["none", "weights", "sampling"] = "none"
    patience: int | None = None


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
        if recipe.freeze:
            head = {id(parameter) for parameter in classifier.head}
            for parameter in classifier.model.parameters():
                parameter.requires_grad_(id(parameter) in head)
        decay = recipe.layer_decay if has_attention(classifier.model) else 1.0
        optimizer = make_optimizer(classifier, arguments.learning_rate, arguments.weight_decay, decay)
        super().__init__(
            model=classifier.model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collate,
            compute_metrics=self._measure,
            optimizers=(optimizer, None),
        )
        self.loss_is_scaled_for_ga = False
        self.network, self.preprocessing, self.recipe = classifier.model, classifier.preprocessing, recipe
        self.learned, self.held_out = train, validation
        self.augment = augmentation(recipe.augment)
        self.average: Average | None = None
        self.health = Health(arguments.learning_rate)
        self._step, self._batch = -1, 0
        frequency = train.samples.frequency()
        self.class_weights = torch.tensor(1 / (frequency * len(frequency))) if recipe.balance == "weights" else None

    @property
    def balance(self) -> str:
        """How classes that are not equally common are made to count, in words."""
        if self.recipe.balance == "sampling":
            return "classes count alike: they are drawn equally often"
        if self.class_weights is None:
            return "every picture counts alike (--balance none)"
        weights = zip(self.learned.classes, self.class_weights.tolist(), strict=True)
        return f"classes count alike, by weights in the loss: {', '.join(f'{n} {w:.2f}' for n, w in weights)}"

    def keep_average(self, checkpoint: str | None) -> None:
        """Average the weights over the steps, from a checkpoint on."""
        self.average = Average(self.network, self.recipe.ema, checkpoint)
        self.add_callback(self.average)

    def make_input(self, pixels: Tensor, *, augment: bool) -> Tensor:
        """Make normalised input of uint8 tiles (n, 3, h, w), on their device."""
        pictures = fit_tiles(pixels, self.preprocessing)
        if augment:
            pictures = self.augment(pictures)
        return normalise_pictures(pictures, self.preprocessing)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step whose chance depends on nothing but the seed and its number.

        The loaders of the Trainer draw from the same random state, as often as there are workers to start: without
        this a resumed training would differ from an unbroken one.
        """
        self._batch = self._batch + 1 if self.state.global_step == self._step else 0
        self._step = self.state.global_step
        place = [self.args.seed, self._step, self._batch, self.args.process_index]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        return super().training_step(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        moved = super()._prepare_inputs(inputs)
        training = self.network.training
        pictures, labels = self.make_input(moved["pixel_values"], augment=training), moved["labels"]
        if training and (self.recipe.mixup or self.recipe.cutmix):
            classes = len(self.learned.classes)
            pictures, labels = mix(pictures, labels, classes, mixup=self.recipe.mixup, cutmix=self.recipe.cutmix)
        return {"pixel_values": pictures, "labels": labels}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross entropy; smoothed and weighted in training only, so that the held-out loss is what it says."""
        if not model.training:
            logits = model(pixel_values=inputs["pixel_values"]).logits
            loss = F.cross_entropy(logits.float(), inputs["labels"])
            return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss
        if self.recipe.freeze:
            _rest(model)
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits, inputs["labels"], weight=weights, label_smoothing=smoothing)
        self.health.see(loss, self.state)
        return loss

    def _measure(self, found: EvalPrediction) -> dict[str, float]:
        self.health.check_scores(np.asarray(found.predictions), self.state)
        return _metrics(found)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure on the held-out part, with the averaged weights where they are kept."""
        self.health.check(self.state)
        if self.average is None:
            return super().evaluate(*args, **kwargs)
        self.average.swap_weights()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.average.swap_weights()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.health.check_weights(self.network, self.state)
        with writing(Path(self.args.output_dir or "."), errors=WRITE_ERRORS):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if any(isinstance(source, IndexedSource) for source in self.learned.samples.sources):
            balanced = self.recipe.balance == "sampling"
            order = OrderOptions(self.args.per_device_train_batch_size, balanced=balanced)
            return ShardSampler(self.learned.samples, self.args.seed, order)
        if self.recipe.balance != "sampling":
            return super()._get_train_sampler(train_dataset)
        return BalancedSampler(self.learned.samples.code, self.args.seed)


class ShardSampler(Sampler[int]):
    """Visits the tiles of indexed stores shard by shard, shuffled; see `wsivit.data.shard_shuffle`.

    Parameters
    ----------
    samples : Samples
        In the order of their index.
    seed : int
    options : OrderOptions
    """

    def __init__(self, samples: Samples, seed: int, options: OrderOptions) -> None:
        self.shard, self.code = shards_of(samples), samples.code
        self.seed, self.options, self.epoch = seed, options, 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes, so that a resumed training visits what an unbroken one would."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shard)

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.shard, self.code, self.seed, self.epoch, self.options)
        yield from map(int, order)


class BalancedSampler(Sampler[int]):
    """Draws each class as often as the others, with replacement; an epoch is as long as the data.

    Parameters
    ----------
    codes : ndarray of int (n,)
    seed : int
    """

    def __init__(self, codes: NDArray[np.int64], seed: int) -> None:
        self.weights = torch.from_numpy(1 / np.bincount(codes)[codes])
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes, so that a resumed training draws what an unbroken one would."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()


@dataclass(frozen=True)
class TrainingResult:
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


def run_training(
    trainer: TileTrainer, folder: Path, *, progress: bool, checkpoint: str | None, warnings: Sequence[str] = ()
) -> TrainingResult:
    """Train (or go on from a checkpoint), leave the best weights in the model, and measure it.

    The warnings are drawn above the picture of training tiles.
    """
    if trainer.args.device.type == "cpu":
        keep_freed_memory()
    trainer.remove_callback(PrinterCallback)
    if trainer.recipe.ema:
        trainer.keep_average(checkpoint)
    if trainer.recipe.patience:
        trainer.add_callback(EarlyStoppingCallback(trainer.recipe.patience))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder / "tensorboard")  # its own default names the machine
    trainer.add_callback(Curves(folder))
    trainer.add_callback(Progress(progress))
    trainer.add_callback(CheckpointMarker())
    if trainer.is_world_process_zero():
        _show_batch(trainer, folder / "augmented.png", warnings)
    with quiet_transformers(), _plain_errors():
        done = trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.average is not None:
            trainer.average.take_from(str(trainer.state.best_model_checkpoint))
        held_out = trainer.predict(trainer.held_out)
    metrics = held_out.metrics or {}
    figures = {key: float(metrics[f"test_{key}"]) for key in ("accuracy", "balanced_accuracy", "loss")}
    figures["memory_mb"] = _memory_mb(trainer.args.device)
    if checkpoint is None:  # of a resumed training only the last part was timed
        figures["seconds_per_epoch"] = done.metrics["train_runtime"] / float(done.metrics["epoch"])
    rows = [row for row in epoch_table(trainer.state.log_history) if "validation_loss" in row]
    best = min(rows, key=lambda row: row["validation_loss"])
    logits = np.asarray(held_out.predictions, np.float32)
    return TrainingResult(figures | {"epoch": best["epoch"]}, logits, np.asarray(held_out.label_ids, np.int64))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Give an error of a reading process its own words back, without the trace that torch puts before them."""
    try:
        yield
    except WsivitError as error:
        if "Original Traceback" not in str(error):
            raise
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LimitError(
            f"a process that reads tiles died ({str(error).splitlines()[0].rstrip('. ')}): out of memory, of shared "
            "memory (docker run --shm-size=2g), or killed. The training resumes from its last checkpoint when the same "
            "command runs again; with --workers 0 it reads in this process"
        ) from error


def _show_batch(trainer: TileTrainer, path: Path, warnings: Sequence[str], n: int = 12) -> None:
    """Draw some training tiles as they are and as the model gets them, without touching the random state."""
    samples = trainer.learned.samples
    chosen = np.random.default_rng(0).permutation(len(samples))[:n]
    pixels = torch.from_numpy(samples.read_skipping_unreadable(chosen)[1]).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pictures = trainer.augment(fit_tiles(pixels, trainer.preprocessing))
    draw_augmented(path, pixels.permute(0, 2, 3, 1).numpy(), pictures.permute(0, 2, 3, 1).numpy(), warnings)


def _memory_mb(device: torch.device) -> float:
    """Most memory that was taken so far, in MB: on the GPU, or by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # on Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 1e6)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3  # bytes there, kilobytes elsewhere


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
