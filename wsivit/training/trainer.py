"""The Trainer: what happens in a step, in which order tiles come, and how the best epoch is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data.mixup import Mixup
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
from wsivit.training.callbacks import Average, Curves, Health, Progress, epoch_table
from wsivit.training.checkpoints import WRITE_ERRORS, CheckpointMarker, checkpoint_read_errors
from wsivit.training.optimizer import has_attention, make_optimizer
from wsivit.training.options import TrainOptions


class TileTrainer(Trainer):
    """Trains a classifier on tiles.

    Parameters
    ----------
    classifier : Classifier
    options : TrainOptions
        With nothing left open (`TrainOptions.resolved`).
    arguments : transformers.TrainingArguments
    train, validation : TileDataset
    """

    def __init__(
        self,
        classifier: Classifier,
        options: TrainOptions,
        arguments: TrainingArguments,
        train: TileDataset,
        validation: TileDataset,
    ) -> None:
        if options.freeze:
            head = {id(parameter) for parameter in classifier.head}
            for parameter in classifier.model.parameters():
                parameter.requires_grad_(id(parameter) in head)
        decay = options.layer_decay if options.layer_decay and has_attention(classifier.model) else 1.0
        super().__init__(
            model=classifier.model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collate,
            compute_metrics=self._compute_metrics,
            optimizers=(make_optimizer(classifier, arguments.learning_rate, arguments.weight_decay, decay), None),
        )
        self.loss_is_scaled_for_ga = False
        self.network, self.preprocessing, self.options = classifier.model, classifier.preprocessing, options
        self.training_set, self.validation_set = train, validation
        self.augment = augmentation(options.augment)
        self.average: Average | None = None
        self.health = Health(arguments.learning_rate, options.pretrained)
        self._step, self._batch = -1, 0
        frequency = train.samples.frequency()
        self.class_weights = torch.tensor(1 / (frequency * len(frequency))) if options.balance == "weights" else None
        self.mixup = (
            # Labels are smoothed in the loss, which also weighs classes.
            Mixup(options.mixup, options.cutmix, label_smoothing=0.0, num_classes=len(train.classes))  # type: ignore[no-untyped-call]
            if options.mixup or options.cutmix
            else None
        )

    @property
    def balance(self) -> str:
        """How rare classes are made to count, in words."""
        if self.options.balance == "sampling":
            return "classes count alike: they are drawn equally often"
        if self.class_weights is None:
            return "every picture counts alike (--balance none)"
        weights = zip(self.training_set.classes, self.class_weights.tolist(), strict=True)
        return f"classes count alike, by weights in the loss: {', '.join(f'{n} {w:.2f}' for n, w in weights)}"

    def make_input(self, pixels: Tensor, *, augment: bool) -> Tensor:
        """Make normalised input of uint8 tiles (n, 3, h, w), on their device."""
        pictures = fit_tiles(pixels, self.preprocessing)
        if augment:
            pictures = self.augment(pictures)
        return normalise_pictures(pictures, self.preprocessing)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step whose random numbers depend on nothing but the seed and its number.

        The Trainer's loaders draw from the same random state, as often as there are workers to start: without this a
        resumed training would differ from an uninterrupted one.
        """
        self._batch = self._batch + 1 if self.state.global_step == self._step else 0
        self._step = self.state.global_step
        seed = np.random.SeedSequence([self.args.seed, self._step, self._batch, self.args.process_index])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        np.random.seed(seed.generate_state(1))  # noqa: NPY002 (timm's Mixup draws from it)
        return super().training_step(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        moved = super()._prepare_inputs(inputs)
        training = self.network.training
        pictures, labels = self.make_input(moved["pixel_values"], augment=training), moved["labels"]
        if training and self.mixup is not None:
            pictures, labels = mix_pictures(self.mixup, pictures, labels)
        return {"pixel_values": pictures, "labels": labels}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross entropy; smoothed and weighted in training only, so that the validation loss is the plain one."""
        if not model.training:
            logits = model(pixel_values=inputs["pixel_values"]).logits
            loss = F.cross_entropy(logits.float(), inputs["labels"])
            return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss
        if self.options.freeze:
            # Frozen layers stay as they are: no dropout, no new batch statistics.
            for module in model.modules():
                parameters = list(module.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.eval()
        logits = model(pixel_values=inputs["pixel_values"]).logits.float()
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        smoothing = self.options.label_smoothing
        loss = F.cross_entropy(logits, inputs["labels"], weight=weights, label_smoothing=smoothing)
        self.health.watch_loss(loss, self.state)
        return loss

    def _compute_metrics(self, result: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(result.predictions), np.asarray(result.label_ids)
        self.health.check_scores(logits, self.state)
        correct: NDArray[np.bool_] = logits.argmax(1) == labels
        recalls = [correct[labels == code].mean() for code in np.unique(labels)]
        return {"accuracy": float(correct.mean()), "balanced_accuracy": float(np.mean(recalls))}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure on the validation part, with the averaged weights where they are kept."""
        self.health.check_losses(self.state)
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
        with checkpoint_read_errors(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with checkpoint_read_errors(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with checkpoint_read_errors(checkpoint):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        samples, balanced = self.training_set.samples, self.options.balance == "sampling"
        if any(isinstance(source, IndexedSource) for source in samples.sources):
            order = OrderOptions(self.args.per_device_train_batch_size, balanced=balanced)
            return ShardSampler(samples, self.args.seed, order)
        return BalancedSampler(samples.code, self.args.seed) if balanced else super()._get_train_sampler(train_dataset)


def mix_pictures(mixup: Mixup, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each picture (n, 3, h, w) with another of the batch; return them, and the shares of the classes (n, classes).

    The last batch of an epoch may be odd, which timm refuses: one picture of it then stays as it is.
    """
    n = len(pictures)
    if n % 2:  # timm pairs the first with the last, which is made the first again
        pictures, labels = torch.cat([pictures, pictures[:1]]), torch.cat([labels, labels[:1]])
    mixed, targets = mixup(pictures, labels)
    return mixed[:n], targets[:n]


class ShardSampler(Sampler[int]):
    """Visits the tiles of indexed stores shard by shard, shuffled; see `wsivit.data.epoch_order`.

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
        """Set the epoch, so that a resumed training visits what an uninterrupted one would."""
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
        """Set the epoch, so that a resumed training draws what an uninterrupted one would."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training, whose best weights are in the model.

    Attributes
    ----------
    validation : dict of str to float
        Metrics of the epoch that was kept, which that was, and what the training cost.
    logits, codes : ndarray (n, classes), (n,)
        Scores and true classes of the validation part.
    """

    validation: dict[str, float]
    logits: NDArray[np.float32]
    codes: NDArray[np.int64]


def run_training(
    trainer: TileTrainer, folder: Path, *, progress: bool, checkpoint: str | None, warnings: Sequence[str] = ()
) -> TrainingResult:
    """Train (or resume from a checkpoint), leave the best weights in the model, and measure it.

    The warnings are drawn above the picture of training tiles.
    """
    options, device = trainer.options, trainer.args.device
    if device.type == "cpu":
        keep_freed_memory()
    trainer.remove_callback(PrinterCallback)
    if options.ema:
        trainer.average = Average(trainer.network, options.ema, checkpoint)
        trainer.add_callback(trainer.average)
    if options.patience:
        trainer.add_callback(EarlyStoppingCallback(options.patience))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder / "tensorboard")  # its own default names the machine
    trainer.add_callback(Curves(folder))
    trainer.add_callback(Progress(progress))
    trainer.add_callback(CheckpointMarker())  # last: what the others save belongs to the checkpoint
    if trainer.is_world_process_zero():
        _draw_training_tiles(trainer, folder / "augmented.png", warnings)
    with quiet_transformers(), _clear_worker_errors():
        output = trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.average is not None:
            trainer.average.load_into_model(str(trainer.state.best_model_checkpoint))
        predicted = trainer.predict(trainer.validation_set)
    metrics = predicted.metrics or {}
    validation = {key: float(metrics[f"test_{key}"]) for key in ("accuracy", "balanced_accuracy", "loss")}
    validation["memory_mb"] = _peak_memory_mb(device)
    if checkpoint is None:  # of a resumed training only the last part was timed
        validation["seconds_per_epoch"] = output.metrics["train_runtime"] / float(output.metrics["epoch"])
    rows = [row for row in epoch_table(trainer.state.log_history) if "validation_loss" in row]
    validation["epoch"] = min(rows, key=lambda row: row["validation_loss"])["epoch"]
    logits, codes = np.asarray(predicted.predictions, np.float32), np.asarray(predicted.label_ids, np.int64)
    return TrainingResult(validation, logits, codes)


@contextmanager
def _clear_worker_errors() -> Iterator[None]:
    """Give errors of workers their own text, without the traceback that torch puts before it."""
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


def _draw_training_tiles(trainer: TileTrainer, path: Path, warnings: Sequence[str], n: int = 12) -> None:
    """Draw some training tiles as they are and as the model gets them, without touching the random state."""
    samples = trainer.training_set.samples
    chosen = np.random.default_rng(0).permutation(len(samples))[:n]
    pixels = torch.from_numpy(samples.read_skipping_unreadable(chosen)[1]).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pictures = trainer.augment(fit_tiles(pixels, trainer.preprocessing))
    draw_augmented(path, pixels.permute(0, 2, 3, 1).numpy(), pictures.permute(0, 2, 3, 1).numpy(), warnings)


def _peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far, in MB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # on Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kilobytes elsewhere
