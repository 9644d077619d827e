"""Options of ``evaluate`` and ``compare``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from wsivit.ranges import BatchSize, Range, Seed, check_options


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
    batch_size: BatchSize = 64
    device: str = "auto"
    bootstrap_samples: Annotated[int, Range(1, 100_000)] = 1000
    seed: Seed = 0
    allow_mismatch: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_options(self)


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

    examples: Annotated[int, Range(1, 240)] = 24
    reuse_predictions: bool = True
