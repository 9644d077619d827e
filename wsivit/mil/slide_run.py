"""The run folder of a slide-level model, and its contract: what it was made for, and what its input must be. No torch.

::

    wsivit.json           the contract; written last, with a fingerprint, when the run is complete
    members/*.safetensors one for each fold: the run is their ensemble
    features.safetensors  mean features of the training patients, to tell how far a new one is from them
    folds.csv             who learned, tuned and was measured in each fold; who was left out, and why
    predictions.csv       out-of-fold predictions: of each patient by members that never saw it
    report.json, README.md, *.png   the figures
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from wsivit.errors import StoreError, UsageError
from wsivit.mil.bags import EncoderBlock
from wsivit.mil.linear_model import outputs_of
from wsivit.mil.patients import TaskKind
from wsivit.models import CONTRACT, PATIENT, Contract, run_level

FORMAT = 1
MEMBERS, STATISTICS, FOLDS, PREDICTIONS, REPORT = (
    "members",
    "features.safetensors",
    "folds.csv",
    "predictions.csv",
    "report.json",
)


@dataclass(frozen=True)
class SlideRun(Contract):
    """What a slide-level run promises and demands.

    Attributes
    ----------
    aggregator, kind : str
        How tiles become one prediction; of what task.
    classes : tuple of str
        Of two the second is the positive one; empty without classes.
    label : str
        Column that the labels were from.
    columns : dict
        Other columns: time, event, site.
    encoder : EncoderBlock
        Which vectors it takes.
    folds : tuple of str
        Names of the members.
    alpha : float
        Share of patients whose prediction set may miss their class.
    patients : dict of str to list of str
        Of each training patient, the fingerprints of its slides.
    options : dict
        Everything that was asked for.
    model_fingerprint : str
        sha256 of the members; empty until the run is complete.
    calibration : dict of str to list of float
        Of each member, how badly it predicted the patients that it never saw.
    faithfulness : dict of str to float
        Of each method of evidence, how much better than chance it orders the tiles.
    figures : dict
        What was measured.
    versions, command
        Of the software; how it was called.
    """

    OUTCOME: ClassVar = frozenset({"model_fingerprint", "calibration", "faithfulness", "figures"})

    aggregator: str
    kind: TaskKind
    classes: tuple[str, ...]
    label: str
    columns: dict[str, str | None]
    encoder: EncoderBlock
    folds: tuple[str, ...]
    alpha: float
    patients: dict[str, list[str]]
    options: dict[str, Any]
    model_fingerprint: str = ""
    calibration: dict[str, list[float]] = field(default_factory=dict)
    faithfulness: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    level: str = PATIENT
    format: int = FORMAT

    @property
    def outputs(self) -> int:
        """How many logits there are."""
        return outputs_of(self.kind, self.classes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each logit is for: the positive class of two, each of several, or the value."""
        if self.kind == "binary":
            return (self.classes[1],)
        return self.classes or (self.label,)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the contract of a run folder.

        Raises
        ------
        StoreError
            The folder is no slide-level run, damaged, or of another version.
        """
        path = Path(folder) / CONTRACT
        if run_level(folder) != PATIENT:
            raise StoreError(f"{folder}: not a slide-level run; wsivit train-slides makes one")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.get("format") != FORMAT:
                raise StoreError(f"{path}: run format {values.get('format')!r}, this wsivit reads {FORMAT}")
            if unknown := {f.name for f in fields(cls)} ^ set(values):
                raise StoreError(f"{path}: damaged: {', '.join(sorted(unknown))} missing or unknown")
            encoder = EncoderBlock(**values["encoder"])
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{path}: cannot be read: {error}") from error
        typed = {"encoder": encoder, "classes": tuple(values["classes"]), "folds": tuple(values["folds"])}
        return cls(**{**values, **typed})

    def member_path(self, folder: str | os.PathLike[str], name: str) -> Path:
        """Return where a member is."""
        return Path(folder) / MEMBERS / f"{name}.safetensors"

    def fingerprint(self, folder: str | os.PathLike[str]) -> str:
        """Return the sha256 of all that makes the predictions.

        Raises
        ------
        StoreError
            A member is missing.
        """
        digest = hashlib.sha256()
        for path in [*(self.member_path(folder, name) for name in self.folds), Path(folder) / STATISTICS]:
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except FileNotFoundError:
                raise StoreError(
                    f"{path} is missing: the run is incomplete; train it again, or copy all of it"
                ) from None
        return "sha256:" + digest.hexdigest()


def finished_slide_run(folder: str | os.PathLike[str]) -> SlideRun:
    """Read the contract of a finished run, and check that all of its members are there and what they were.

    Raises
    ------
    StoreError
        The folder is no slide-level run, or a member is missing or was changed.
    UsageError
        The training is not finished.
    """
    run = SlideRun.read(folder)
    if not run.done:
        raise UsageError(f"{folder}: the training is not finished; run the same wsivit train-slides command again")
    if run.fingerprint(folder) != run.model_fingerprint:
        raise StoreError(f"{folder}: a member of the ensemble was changed after the training; train it again")
    return run
