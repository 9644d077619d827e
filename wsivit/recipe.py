"""What can be chosen about a training. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wsivit.data.splits import By
from wsivit.errors import UsageError


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
        Train the head only (a linear probe).
    seed : int
        Of the split, the order, the augmentation and the new weights.
    workers : int, optional
        Processes that read tiles; 0 reads in threads of this one. Default: one less than the cores, at most 8.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``mps``.
    pretrained : bool
        Start from the weights that go with the model's name, not from scratch.
    weights : path, optional
        A ``.safetensors`` file of weights for a timm architecture.
    image_size : int, optional
        Side of the model's input, in pixels; tiles are resized to it. Default: what the model was made for.
    augment : {"histology", "natural", "none"}
        Changes made to training tiles.
    holdout : float
        Part of the tiles that is held out to measure on, above 0 to 0.5.
    split_by : {"auto", "patient", "slide", "site", "region"}
        What stays whole: ``auto`` takes patients where every class is in two of them, else regions of the slides.
    split : path, optional
        A split to use again: CSV with the columns source, item, split.
    weight_decay : float
        Of AdamW.
    label_smoothing : float
        Share of the target spread over all classes, in training.
    allow_leakage : bool
        Go on when the audit finds a patient, slide or tile on both sides; it is recorded.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float | None = None
    freeze: bool = False
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    pretrained: bool = True
    weights: str | None = None
    image_size: int | None = None
    augment: Literal["histology", "natural", "none"] = "histology"
    holdout: float = 0.2
    split_by: By = "auto"
    split: str | None = None
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    allow_leakage: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.lr is not None and not 0 < self.lr < 10:
            raise UsageError(f"lr must be above 0 and below 10, not {self.lr}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing must be from 0 to below 1, not {self.label_smoothing}")

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, chosen or by rule."""
        fresh = self.freeze or not (self.pretrained or self.weights)
        return self.lr if self.lr is not None else 1e-3 if fresh else 1e-4

    def recorded(self) -> dict[str, Any]:
        """What determines the result; not where and how fast it was computed."""
        return {k: v for k, v in asdict(self).items() if k not in ("workers", "device")}
