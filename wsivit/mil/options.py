"""Options of ``train-slides``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

from wsivit.errors import UsageError
from wsivit.ranges import (
    BatchSize,
    Count,
    CountOrZero,
    FractionBelowOne,
    NonNegative,
    Positive,
    Range,
    Seed,
    check_options,
)

Folds: TypeAlias = Annotated[int, Range(2, 1_000)]
LearningRate: TypeAlias = Annotated[float, Range(0, 10, above=True, below=True)]
OpenFraction: TypeAlias = Annotated[float, Range(0, 1, above=True, below=True)]

SEARCHED = ("lr", "weight_decay", "dropout", "hidden", "tiles_per_slide")
"""What ``try_values`` may name."""


@dataclass(frozen=True)
class TrainSlidesOptions:
    """How slide-level models are trained and measured.

    Parameters
    ----------
    aggregator : {"auto", "linear", "mean", "max", "abmil", "additive"}
        How the tiles of a slide become one prediction. ``auto``: linear on a CPU, abmil on a GPU.
    folds : int
        Parts of the outer cross-validation; each patient is measured by a model that never saw it.
    repeats : int
        How often the patients are split anew.
    by_site : bool
        Keep the patients of a site in one fold.
    folds_file : str, optional
        Take the folds from a ``folds.csv`` of another run.
    epochs : int
        At most; the one with the least loss on the tuning patients is kept.
    patience : int
        Stop after so many epochs without a lower loss.
    lr : float
        Learning rate.
    weight_decay : float
        Of AdamW.
    dropout : float
        Of the embedding, 0 to below 1.
    hidden : int
        Width of the embedding; 0 for none.
    tiles_per_slide : int
        Tiles drawn of each slide in an epoch; the next epoch draws others.
    batch_size : int
        Patients per step.
    try_values : tuple of str
        Hyper-parameters to choose on the tuning patients, such as ``lr=1e-4,3e-4``.
    class_weights : bool
        Weigh the classes equally in the loss; probabilities are then those of equally many patients of each.
    alpha : float
        Share of patients whose prediction set may miss their class.
    bootstrap_samples : int
        Number of bootstrap samples for the intervals.
    permutations : int
        Number of permutations of the labels, for the band of chance.
    allow_site_confounding : bool
        Train although the label is a function of the site.
    memory_gb : float
        Memory that the tiles of all slides may take; more are read from a pack in the run folder.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``mps``.
    seed : int
        Of everything random.
    """

    aggregator: Literal["auto", "linear", "mean", "max", "abmil", "additive"] = "auto"
    folds: Folds = 5
    repeats: Count = 3
    by_site: bool = False
    folds_file: str | None = None
    epochs: Count = 50
    patience: Count = 10
    lr: LearningRate = 2e-4
    weight_decay: NonNegative = 1e-4
    dropout: FractionBelowOne = 0.25
    hidden: CountOrZero = 256
    tiles_per_slide: Count = 1024
    batch_size: BatchSize = 8
    try_values: tuple[str, ...] = ()
    class_weights: bool = False
    alpha: OpenFraction = 0.1
    bootstrap_samples: Count = 1000
    permutations: CountOrZero = 100
    allow_site_confounding: bool = False
    memory_gb: Positive = 1.0
    device: str = "auto"
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_options(self)
        self.searched()

    def searched(self) -> tuple[TrainSlidesOptions, ...]:
        """Return the options of every combination of the values to try."""
        combinations = [replace(self, try_values=())] if self.try_values else [self]
        for text in self.try_values:
            name, sign, values = text.partition("=")
            if not sign or name not in SEARCHED:
                raise UsageError(f"--try-values {text!r}: give NAME=VALUE,VALUE with a name of {', '.join(SEARCHED)}")
            try:
                parsed = [type(getattr(self, name))(value) for value in values.split(",")]
            except ValueError:
                raise UsageError(f"--try-values {text!r}: {values!r} are no values of {name}") from None
            combinations = [replace(each, **{name: value}) for each in combinations for value in parsed]
        return tuple(combinations)

    def recorded(self) -> dict[str, Any]:
        """Return what determines the result; how it is computed is left out."""
        return {key: value for key, value in asdict(self).items() if key not in ("memory_gb", "folds_file")}
