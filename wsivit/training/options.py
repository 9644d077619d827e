"""What can be chosen about a training. No torch."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, TypeAlias

from wsivit.data import By
from wsivit.errors import UsageError
from wsivit.ranges import (
    BatchSize,
    Count,
    FractionBelowOne,
    ImageSize,
    NonNegative,
    PositiveFraction,
    Range,
    Seed,
    Workers,
    check_options,
)

Augment: TypeAlias = Literal["auto", "histology", "natural", "none"]
Balance: TypeAlias = Literal["none", "weights", "sampling"]

_OF_PROBE = ("seed", "weights", "holdout", "split_by", "split", "folds", "fold", "balance", "allow_leakage", "device")
"""What a linear head on stored features is affected by; the device it runs on is never wrong."""


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained.

    Parameters
    ----------
    epochs : int
        Times that every training tile is seen.
    batch_size : int
        Tiles per step.
    lr : float, optional
        Peak learning rate, reached after a tenth of the steps, then falling as a cosine. Default: 1e-4 to fine-tune,
        1e-3 from scratch or for the head alone.
    freeze : bool
        Train the head only.
    seed : int
        Of the split, the order, the augmentation and the new weights.
    workers : int, optional
        Processes that read tiles; 0 reads in threads of this one. Default: one less than the cores, at most 8.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``mps``.
    pretrained : bool
        Start from the weights that go with the model's name, not from scratch.
    weights : path, optional
        A ``.safetensors`` file of weights for the named architecture; or the file or folder of the encoder's weights.
    image_size : int, optional
        Side of the model's input, in pixels; tiles are resized to it. Default: what the model was made for.
    augment : {"auto", "histology", "natural", "none"}
        Changes made to training pictures: ``auto`` takes ``histology`` for tiles of slides (flips, quarter turns, stain
        jitter, slight scale and blur), ``natural`` for pictures (crops, flips left to right, colour).
    holdout : float
        Part of the tiles that is held out to measure on, above 0 to 0.5. A fifth of the rest, the tune part, chooses
        the epoch and the temperature.
    split_by : {"auto", "patient", "slide", "site", "region"}
        What stays whole: ``auto`` takes patients where every class is in two of them, else regions of the slides.
    split : path, optional
        A split to use again: CSV with the columns source, item (``col/row`` of a tile; empty: the whole source), split
        (train, tune, test, left out).
    folds : int, optional
        Cross-validation: cut the data in so many parts, and hold out part ``fold``.
    fold : int
        From 1 to ``folds``.
    weight_decay : float
        Of AdamW.
    label_smoothing : float
        Share of the target spread over all classes, in training.
    layer_decay : float, optional
        Each layer learns at this fraction of the rate of the next. Default: 0.75 to fine-tune a transformer, 1 (off)
        for CNNs and from scratch.
    mixup : float
        Blend each training picture with another; the parameter of the beta distribution of their shares, 0 is off.
    cutmix : float
        Paste a box of another picture into each; the parameter of the beta distribution of its area, 0 is off.
    ema : float
        Decay of a running average of the weights, which is then what is measured and kept; 0 is off, 0.999 usual.
    balance : {"none", "weights", "sampling"}
        Make rare classes count as much as common ones, by weights in the loss or by drawing them more often.
    patience : int, optional
        Stop after so many epochs without a lower loss on the tune part.
    accumulate : int
        Batches per step of the optimizer.
    compile : bool
        Compile the model (torch.compile).
    report_to : str
        Log to ``tensorboard`` (in the run folder), ``wandb``, … as well, by transformers' own callbacks.
    allow_leakage : bool
        Go on when the audit finds a patient, slide or tile on both sides; it is recorded.
    """

    epochs: Count = 10
    batch_size: BatchSize = 32
    lr: Annotated[float, Range(0, 10, above=True)] | None = None
    freeze: bool = False
    seed: Seed = 0
    workers: Workers | None = None
    device: str = "auto"
    pretrained: bool = True
    weights: str | None = None
    image_size: ImageSize | None = None
    augment: Augment = "auto"
    holdout: Annotated[float, Range(0, 0.5, above=True)] = 0.2
    split_by: By = "auto"
    split: str | None = None
    folds: Annotated[int, Range(2, 1_000)] | None = None
    fold: Count = 1
    weight_decay: NonNegative = 0.05
    label_smoothing: FractionBelowOne = 0.1
    layer_decay: PositiveFraction | None = None
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    ema: FractionBelowOne = 0.0
    balance: Balance = "none"
    patience: Count | None = None
    accumulate: Count = 1
    compile: bool = False
    report_to: str = "none"
    allow_leakage: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.folds is not None and self.fold > self.folds:
            raise UsageError(f"fold must be from 1 to {self.folds}, the number of folds, not {self.fold}")

    def require_for_probe(self) -> None:
        """Refuse what was set and has no meaning for a linear head on stored features."""
        unused = [
            f"--{f.name.replace('_', '-')}"
            for f in fields(self)
            if f.name not in _OF_PROBE and getattr(self, f.name) != f.default
        ]
        if unused:
            raise UsageError(
                f"{', '.join(unused)}: for fine-tuning (--model); a linear head on stored features (--encoder) is "
                "fitted at once, and takes the options of the split, --balance and --weights"
            )

    @property
    def from_scratch(self) -> bool:
        """Whether no weights are there to begin with."""
        return not (self.pretrained or self.weights)

    @property
    def worker_count(self) -> int:
        """Processes that read tiles, if shared memory is large enough for their batches."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(8, cores - 1) if self.workers is None else self.workers

    def resolved(self, *, of_slides: bool, layer_decay: float) -> TrainOptions:
        """Choose by rule what was left open: learning rate, layer decay, augmentation."""
        chosen: dict[str, Any] = {}
        if self.lr is None:
            chosen["lr"] = 1e-3 if self.freeze or self.from_scratch else 1e-4
        if self.layer_decay is None:
            chosen["layer_decay"] = 1.0 if self.from_scratch else layer_decay
        if self.augment == "auto":
            chosen["augment"] = "histology" if of_slides else "natural"
        return replace(self, **chosen)

    def recorded(self) -> dict[str, Any]:
        """What determines the result; not where and how fast it was computed."""
        return {k: v for k, v in asdict(self).items() if k not in ("workers", "device", "compile", "report_to")}
