"""The ensemble of a run's members: what it predicts of patients, how sure it is, and how far they are from training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsivit.io import LocalFiles
from wsivit.mil.bags import Tiles, Vectors
from wsivit.mil.conformal import class_p_values, prediction_sets, set_text
from wsivit.mil.objective import Floats, probabilities
from wsivit.mil.slide_run import STATISTICS, SlideRun, finished_slide_run

if TYPE_CHECKING:
    from wsivit.mil.member import Member


@dataclass(frozen=True)
class PatientPredictions:
    """What an ensemble predicts of patients.

    Attributes
    ----------
    logits : float64 (n, outputs)
        Calibrated; the mean of the members'.
    probabilities : float64 (n, classes)
        Of each class; of a regression or survival the values themselves, (n, 1).
    spread : float64 (n,)
        Standard deviation over the members of the probability of the predicted class, or of the value.
    sets : bool (n, classes) or None
        Classes of the conformal set; None without classes.
    verdicts : tuple of str
        The class of a set of one, else ``abstain``; empty without classes.
    distance : float64 (n,)
        Of the mean features from those of the training patients, where 1 is the distance that 95 % of these are within.
    """

    logits: Floats
    probabilities: Floats
    spread: Floats
    sets: NDArray[np.bool_] | None
    verdicts: tuple[str, ...]
    distance: Floats


class Ensemble:
    """The members of a finished run.

    Parameters
    ----------
    folder : path
        The run folder.

    Attributes
    ----------
    run : SlideRun

    Raises
    ------
    StoreError
        The folder is no complete slide-level run.
    UsageError
        The training is not finished.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.run: SlideRun = finished_slide_run(folder)

    @cached_property
    def members(self) -> dict[str, Member]:
        """The members by the name of their fold."""
        from wsivit.mil.member import Member  # loads torch

        run = self.run
        return {
            name: Member.read(run.member_path(self.folder, name), run.aggregator, run.encoder.dim, run.outputs)
            for name in run.folds
        }

    @cached_property
    def statistics(self) -> TrainingFeatures:
        """Of the features that it was trained on."""
        return TrainingFeatures.read(self.folder / STATISTICS)

    def predict(self, bags: Sequence[Sequence[Tiles]], means: Vectors) -> PatientPredictions:
        """Predict patients.

        Parameters
        ----------
        bags : sequence of sequence of float16 (k, d)
            Of each patient, the tiles of each slide; empty where means are enough.
        means : float32 (n, d)
            Mean features of each patient.
        """
        run = self.run
        each = {name: member.logits(bags, means) for name, member in self.members.items()}
        logits = np.mean(list(each.values()), axis=0)
        distance = self.statistics.distance(means)
        if not run.classes:
            spread = np.std(list(each.values()), axis=0)[:, 0]
            return PatientPredictions(logits, logits, spread, None, (), distance)
        shares = probabilities(logits)
        of_members = {name: probabilities(values) for name, values in each.items()}
        best = shares.argmax(axis=1)
        spread = np.std([values[np.arange(len(best)), best] for values in of_members.values()], axis=0)
        sets = prediction_sets(class_p_values(of_members, run.calibration), run.alpha)
        verdicts = tuple(set_text(chosen, run.classes) for chosen in sets)
        return PatientPredictions(logits, shares, spread, sets, verdicts, distance)


@dataclass(frozen=True)
class TrainingFeatures:
    """Mean features of the training patients: their centre and scale, and how far most of them are from it.

    Attributes
    ----------
    mean, std : float32 (d,)
    typical : float
        Root mean square of standardised features that 95 % of the patients are within.
    """

    mean: Vectors
    std: Vectors
    typical: float

    @classmethod
    def of(cls, means: Vectors) -> TrainingFeatures:
        """Describe mean features (n, d)."""
        mean, std = means.mean(axis=0), means.std(axis=0)
        std = np.where(std > 0, std, 1).astype(np.float32)
        distances = np.sqrt((((means - mean) / std) ** 2).mean(axis=1))
        return cls(mean.astype(np.float32), std, float(np.quantile(distances, 0.95)) or 1.0)

    def distance(self, means: Vectors) -> Floats:
        """Return how far mean features (n, d) are, in units of `typical`."""
        scaled = (means.astype(np.float64) - self.mean) / self.std
        return np.sqrt((scaled**2).mean(axis=1)) / self.typical  # type: ignore[no-any-return]

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        from safetensors.numpy import save

        raw = save({"mean": self.mean, "std": self.std, "typical": np.array([self.typical], np.float32)})
        LocalFiles(folder).write(STATISTICS, [raw])

    @classmethod
    def read(cls, path: Path) -> TrainingFeatures:
        """Read it."""
        from safetensors.numpy import load_file

        values = load_file(path)
        return cls(values["mean"], values["std"], float(values["typical"][0]))
