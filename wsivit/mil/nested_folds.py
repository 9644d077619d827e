"""Repeated nested cross-validation over patients. Pure on arrays; no torch."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.io import LocalFiles
from wsivit.mil.patients import LeftOut, PatientCohort

Places = NDArray[np.int64]
PARTS = ("train", "tune", "test")


@dataclass(frozen=True)
class Fold:
    """One member's patients, as places in the cohort.

    Attributes
    ----------
    repeat, number : int
        From 0.
    train : ndarray of int64
        What the member learns from.
    tune : ndarray of int64
        What chooses its epoch, temperature and hyper-parameters.
    test : ndarray of int64
        What it is measured on, and never sees.
    """

    repeat: int
    number: int
    train: Places
    tune: Places
    test: Places

    @property
    def name(self) -> str:
        """Of the member's files."""
        return f"repeat{self.repeat}-fold{self.number}"

    @property
    def inner(self) -> Places:
        """All patients but those it is measured on, in order."""
        return np.sort(np.concatenate([self.train, self.tune]))


def make_folds(
    cohort: PatientCohort, folds: int, repeats: int, *, seed: int = 0, by_site: bool = False
) -> tuple[Fold, ...]:
    """Split a cohort into folds, several times; each fold's other patients into a part to learn from and one to tune.

    Parameters
    ----------
    cohort : PatientCohort
    folds, repeats : int
    seed : int
    by_site : bool
        Keep the patients of a site in one fold.

    Raises
    ------
    UsageError
        A class has fewer patients than twice the folds, or there are fewer sites than folds.
    """
    strata, n = cohort.strata, len(cohort)
    if folds < 2 or repeats < 1:
        raise UsageError(f"there must be at least 2 folds and 1 repeat, not {folds} and {repeats}")
    check_class_sizes(cohort, folds)
    # A patient of an unknown site is a site of its own.
    sites = np.unique([p.site or f"? {p.id}" for p in cohort.patients], return_inverse=True)[1]
    if by_site and len(np.unique(sites)) < folds:
        raise UsageError(f"{len(np.unique(sites))} sites cannot be kept whole in {folds} folds; lower --folds")
    made = []
    for repeat in range(repeats):
        groups = sites if by_site else np.arange(n)
        for number, test in enumerate(_parts(strata, groups, folds, seed + 1000 * repeat)):
            inner = np.setdiff1d(np.arange(n), test)
            # A quarter tunes. Its seed differs by fold, so that the same patients do not always tune.
            tune = inner[_parts(strata[inner], groups[inner], 4, seed + 1000 * repeat + number + 1)[0]]
            made.append(Fold(repeat, number, np.setdiff1d(inner, tune), tune, test))
    return tuple(made)


def check_class_sizes(cohort: PatientCohort, folds: int) -> None:
    """Raise UsageError where a class (or the events) has fewer patients than twice the folds."""
    for name, count in cohort.counts().items():
        if count < 2 * folds and name != "censored":
            raise UsageError(
                f"{name} has {count} patients, {folds} folds need at least {2 * folds} of each; lower --folds, or add "
                "patients"
            )
    if len(cohort) < 4 * folds:
        raise UsageError(f"{len(cohort)} patients are too few for {folds} folds: there must be at least {4 * folds}")


def _parts(strata: Places, groups: Places, count: int, seed: int) -> list[Places]:
    """Split places into parts of equal strata, groups kept whole."""
    n_groups = len(np.unique(groups))
    if n_groups == len(groups):  # every patient for itself
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(np.flatnonzero(strata == code)) for code in np.unique(strata)])
        return [np.sort(order[part::count]) for part in range(count)]  # dealt out, stratum by stratum
    count = min(count, n_groups)
    if count < 2:  # one site is left: its patients are split
        return _parts(strata, np.arange(len(strata)), 4, seed)
    from sklearn.model_selection import StratifiedGroupKFold

    grouped = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [part for _, part in grouped.split(strata, strata, groups) if len(part)]


def write_folds(folder: Path, name: str, cohort: PatientCohort, folds: Sequence[Fold]) -> None:
    """Write who is in which part of which fold, and who is in none and why."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["repeat", "fold", "patient", "part", "why"])
    for fold in folds:
        part_of = {int(place): part for part in PARTS for place in getattr(fold, part)}
        for place, patient in enumerate(cohort.patients):
            writer.writerow([fold.repeat, fold.number, patient.id, part_of[place], ""])
    for left in cohort.left_out:
        writer.writerow(["", "", left.id, f"{left.kind} left out", left.why])
    LocalFiles(folder).write(name, [text.getvalue().encode()])


def read_folds(path: str | os.PathLike[str], cohort: PatientCohort) -> tuple[tuple[Fold, ...], tuple[LeftOut, ...]]:
    """Read folds that `write_folds` wrote, or someone made by hand; patients that are in none take no part.

    Raises
    ------
    UsageError
        The file cannot be read, or a fold lacks a part.
    """
    places = {patient.id: place for place, patient in enumerate(cohort.patients)}
    parts: dict[tuple[int, int], dict[str, list[int]]] = {}
    seen: set[str] = set()
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["part"] not in PARTS:
                    continue
                seen.add(line["patient"])
                fold = parts.setdefault((int(line["repeat"]), int(line["fold"])), {part: [] for part in PARTS})
                if line["patient"] in places:
                    fold[line["part"]].append(places[line["patient"]])
    except (OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no folds: needs columns repeat, fold, patient, part: {error}") from error
    made = []
    for (repeat, number), of in sorted(parts.items()):
        for part in ("train", "tune"):
            if not of[part]:
                raise UsageError(f"{path}: fold {number} of repeat {repeat} has no {part} patient of this table")
        train, tune, test = (np.array(sorted(of[part]), np.int64) for part in PARTS)
        made.append(Fold(repeat, number, train, tune, test))
    if not made:
        raise UsageError(f"{path}: has no fold")
    outside = [
        LeftOut("patient", p.id, f"in no fold of {Path(path).name}") for p in cohort.patients if p.id not in seen
    ]
    return tuple(made), tuple(outside)
