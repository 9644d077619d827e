"""Options of ``evaluate`` and ``compare``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsivit.errors import UsageError


@dataclass(frozen=True)
class CompareOptions:
    """On which tiles models are measured, and how.

    Parameters
    ----------
    label : str, optional
        Label column with the true classes. Default: the one the run was trained on.
    subset : {"unseen", "all"}
        ``unseen`` leaves out the tiles that were trained on; ``all`` takes every tile, and the metrics are too good.
    batch_size : int
        Tiles per step.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``mps``.
    bootstrap_samples : int
        Number of bootstrap samples for the intervals.
    seed : int
        Of everything random.
    allow_mismatch : bool
        Continue where scale or tile size differ from the run's.
    force : bool
        Replace existing results.
    """

    label: str | None = None
    subset: Literal["unseen", "all"] = "unseen"
    batch_size: int = 64
    device: str = "auto"
    bootstrap_samples: int = 1000
    seed: int = 0
    allow_mismatch: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.subset not in ("unseen", "all"):
            raise UsageError(f"subset must be unseen or all, not {self.subset!r}")
        if self.bootstrap_samples < 1:
            raise UsageError(f"bootstrap_samples must be at least 1, not {self.bootstrap_samples}")


@dataclass(frozen=True)
class EvaluateOptions(CompareOptions):
    """On which tiles a model is measured, and how.

    Parameters
    ----------
    examples : int
        Number of tiles in the picture of examples.
    reuse_predictions : bool
        Reuse the scores that ``wsivit predict`` stored, where they are this model's; the model predicts the rest.
    """

    examples: int = 24
    reuse_predictions: bool = True
