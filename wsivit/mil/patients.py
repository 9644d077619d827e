"""Which patients there are, with which label, site and slides. Pure on tables; no torch."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.cohort import CohortLayout
from wsivit.errors import UsageError
from wsivit.slide_list import SlideRow, find_slides, read_patient_table

TaskKind: TypeAlias = Literal["binary", "multiclass", "regression", "survival"]
_LISTED = 5
_EVENTS = {"1": 1, "true": 1, "yes": 1, "event": 1, "dead": 1, "0": 0, "false": 0, "no": 0, "censored": 0, "alive": 0}


@dataclass(frozen=True)
class PatientSlide:
    """A slide of a patient: its id, and where its tile store is."""

    id: str
    store: str


@dataclass(frozen=True)
class Patient:
    """A patient with a label and at least one slide.

    Attributes
    ----------
    id : str
    label : str
        As the table has it; of survival the time.
    target : float
        Index of the class, the value of a regression, or the time.
    event : int
        Of survival: 1 where the event was observed, 0 where the patient was censored.
    site : str
        Empty where unknown.
    slides : tuple of PatientSlide
    """

    id: str
    label: str
    target: float
    site: str
    slides: tuple[PatientSlide, ...]
    event: int = 1


@dataclass(frozen=True)
class LeftOut:
    """A patient or slide that takes no part, and why."""

    kind: Literal["patient", "slide"]
    id: str
    why: str


@dataclass(frozen=True)
class PatientCohort:
    """The patients of a study that have both slides and a label.

    Attributes
    ----------
    patients : tuple of Patient
        By id.
    kind : str
        ``binary``, ``multiclass``, ``regression`` or ``survival``.
    classes : tuple of str
        Of two the second is the positive one; empty without classes.
    label : str
        The column that the labels are from.
    left_out : tuple of LeftOut
    """

    patients: tuple[Patient, ...]
    kind: TaskKind
    classes: tuple[str, ...]
    label: str
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def targets(self) -> NDArray[np.float64]:
        """Class index, value or time of each patient; float64 (n,)."""
        return np.array([patient.target for patient in self.patients])

    @property
    def events(self) -> NDArray[np.int64]:
        """1 where the event of a patient was observed; int64 (n,)."""
        return np.array([patient.event for patient in self.patients], np.int64)

    @property
    def sites(self) -> list[str]:
        """Site of each patient."""
        return [patient.site for patient in self.patients]

    @property
    def strata(self) -> NDArray[np.int64]:
        """What folds are balanced over: the class, the event, or the quarter of the value; int64 (n,)."""
        if self.kind == "survival":
            return self.events
        if self.kind == "regression":
            quarters = np.quantile(self.targets, [0.25, 0.5, 0.75])
            return np.searchsorted(quarters, self.targets, side="right").astype(np.int64)
        return self.targets.astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Patients of each class; of survival with and without an event."""
        if self.kind == "regression":
            return {}
        names = ("censored", "event") if self.kind == "survival" else self.classes
        return {name: int((self.strata == code).sum()) for code, name in enumerate(names)}

    def relabelled(self, order: Sequence[int] | NDArray[np.int64]) -> PatientCohort:
        """Give each patient the label of another one: for what chance gives."""
        others = [self.patients[place] for place in order]
        pairs = zip(self.patients, others, strict=True)
        patients = [replace(p, label=o.label, target=o.target, event=o.event) for p, o in pairs]
        return replace(self, patients=tuple(patients))

    def take(self, places: Iterable[int]) -> PatientCohort:
        """Return some of the patients."""
        return replace(self, patients=tuple(self.patients[place] for place in places))


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of a table hold what.

    Parameters
    ----------
    label : str, optional
        The label. Survival has none: give `time` and `event`.
    time : str, optional
        Time of follow-up of survival, above 0.
    event : str, optional
        Whether the event of survival was observed: 1 or 0.
    site : str, optional
        Where the patient was treated, or the slide scanned. Default: a column called site, centre or hospital.
    task : {"auto", "binary", "multiclass", "regression", "survival"}
        ``auto`` guesses from the labels.
    positive : str, optional
        The class of two that counts as positive. Default: the second of the alphabet, or what is not a plain negative.
    """

    label: str | None = None
    time: str | None = None
    event: str | None = None
    site: str | None = None
    task: Literal["auto", "binary", "multiclass", "regression", "survival"] = "auto"
    positive: str | None = None


def read_patients(
    study: str | os.PathLike[str], table: str | os.PathLike[str], columns: LabelColumns, classes: Sequence[str] = ()
) -> PatientCohort:
    """Join the slides of a study with a table of labels.

    Parameters
    ----------
    study : path
        The output of a cohort, or a folder of tile stores.
    table : path
        ``.csv``, ``.tsv``, ``.xlsx`` or ``.parquet``: a row for each patient, or for each slide.
    columns : LabelColumns
    classes : sequence of str
        Of a run that exists: labels must be among them. Default: those of the table.

    Raises
    ------
    UsageError
        A column is missing, a patient has two labels or two sites, no patient has both a label and a slide, or a label
        is no number where one is needed; the text names the patient or line.
    """
    path = os.fspath(table)
    rows = read_patient_table(path)
    slides = study_slides(study)
    joined, left_out = _join(rows, slides, path, columns)
    label, time = columns.label, columns.time
    if time is not None or columns.task == "survival":
        if time is None or columns.event is None:
            raise UsageError("survival needs the columns --time and --event")
        return _survival(joined, left_out, path, time, columns.event)
    if label is None:
        raise UsageError("which column holds the label? give --label (or --time and --event for survival)")
    kind, names = _guess(path, label, [entry.values[label] for entry in joined.values()], columns, classes)
    patients = []
    for entry in joined.values():
        text = entry.values[label]
        target = float(names.index(text)) if kind != "regression" else _number(path, entry, label)
        patients.append(entry.patient(text, target))
    return PatientCohort(tuple(patients), kind, names, label, left_out)


def study_slides(study: str | os.PathLike[str]) -> list[SlideRow]:
    """Return the slides of a study with the places of their stores.

    Raises
    ------
    UsageError
        It is neither the output of a cohort nor a folder, table or list of tile stores.
    """
    layout = CohortLayout(study)
    if layout.exists:
        return layout.stored_slides()
    slides = find_slides([study])
    if without := [slide.id for slide in slides if not slide.store]:
        raise UsageError(
            f"{os.fspath(study)}: {without[0]} is no tile store: a study is the folder that `wsivit features SLIDES "
            "--encoder NAME -o STUDY` wrote, or a folder of tile stores"
        )
    return slides


@dataclass(frozen=True)
class _Entry:
    id: str
    line: int
    values: dict[str, str]
    site: str
    slides: tuple[PatientSlide, ...]

    def patient(self, label: str, target: float, event: int = 1) -> Patient:
        return Patient(self.id, label, target, self.site, self.slides, event)


def _join(
    rows: Sequence[SlideRow], slides: Sequence[SlideRow], path: str, columns: LabelColumns
) -> tuple[dict[str, _Entry], tuple[LeftOut, ...]]:
    """Bring together what the table says of each patient and the slides that the study has of it."""
    wanted = [name for name in (columns.label, columns.time, columns.event) if name is not None]
    known = list(rows[0].values)
    for name in [*wanted, *([columns.site] if columns.site else [])]:
        if name not in known:
            raise UsageError(f"{path}: has no column {name!r}; it has {', '.join(filter(None, known))}")
    by_name = {name.casefold(): slide for slide in slides for name in _names(slide)}
    of_patient: dict[str, list[SlideRow]] = {}
    for slide in slides:
        if slide.patient:
            of_patient.setdefault(slide.patient, []).append(slide)
    entries: dict[str, _Entry] = {}
    taken: dict[str, str] = {}
    left_out: list[LeftOut] = []
    for row in rows:
        found = _slides_of(row, by_name, of_patient)
        patient = row.patient or next((slide.patient for slide in found if slide.patient), "") or row.id
        values = {name: row.values.get(name, "") for name in wanted}
        if missing := [name for name, value in values.items() if not value]:
            left_out.append(LeftOut("patient", patient, f"no {' and no '.join(missing)}"))
            taken |= {slide.id: patient for slide in found}
            continue
        site = row.values.get(columns.site, "") if columns.site else row.site
        site = site or next((slide.site for slide in found if slide.site), "")
        kept = tuple(PatientSlide(slide.id, slide.store) for slide in found)
        entry = _Entry(patient, row.line, values, site, kept)
        for name in (slide.id for slide in kept):
            if taken.setdefault(name, patient) != patient:
                raise UsageError(
                    f"{path}, line {row.line}: slide {name} is of patient {patient} here and of {taken[name]} "
                    "elsewhere; a slide has one patient"
                )
        entries[patient] = _merge(entries.get(patient), entry, path)
        if not found and row.id:
            left_out.append(LeftOut("slide", row.id, "in the table, but not in the study"))
    for patient in [name for name, entry in entries.items() if not entry.slides]:
        del entries[patient]
        left_out.append(LeftOut("patient", patient, "no slide in the study"))
    left_out += [LeftOut("slide", slide.id, "no label in the table") for slide in slides if slide.id not in taken]
    if not entries:
        raise UsageError(
            f"{path}: no patient of it has a label and a slide in the study; its column of slides must have the ids "
            f"of the study, such as {slides[0].id}"
        )
    return dict(sorted(entries.items())), tuple(left_out)


def _names(slide: SlideRow) -> list[str]:
    """How a table may call a slide: its id, its file with and without its folder and ending."""
    names = [slide.id]
    for location in filter(None, (slide.path, slide.store)):
        file = re.split(r"[/\\]", location)[-1]
        names += [file, Path(file).stem]
    return names


def _slides_of(
    row: SlideRow, by_name: Mapping[str, SlideRow], of_patient: Mapping[str, list[SlideRow]]
) -> list[SlideRow]:
    if row.id or row.path or row.store:
        found = (by_name.get(name.casefold()) for name in _names(row) if name)
        return [slide for slide in found if slide is not None][:1]
    if row.patient in of_patient:
        return of_patient[row.patient]
    # Without a column of slides a patient may be the slide.
    named = by_name.get(row.patient.casefold())
    return [named] if named is not None else []


def _merge(old: _Entry | None, new: _Entry, path: str) -> _Entry:
    if old is None:
        return new
    for name, value in new.values.items():
        if old.values[name] != value:
            raise UsageError(
                f"{path}: patient {new.id} has {name} {old.values[name]!r} in line {old.line} and {value!r} in line "
                f"{new.line}; a patient has one"
            )
    if old.site and new.site and old.site != new.site:
        raise UsageError(f"{path}: patient {new.id} is of site {old.site!r} and of {new.site!r} (line {new.line})")
    slides = tuple(dict.fromkeys([*old.slides, *new.slides]))
    return replace(old, site=old.site or new.site, slides=slides)


def _guess(
    path: str, label: str, texts: Sequence[str], columns: LabelColumns, known: Sequence[str]
) -> tuple[TaskKind, tuple[str, ...]]:
    """Guess the task from the labels; return it with the classes in their order."""
    counts = Counter(texts)
    numbers = all(_is_number(text) for text in counts)
    task = columns.task
    if task == "auto":
        many_numbers = numbers and len(counts) > max(10, len(texts) // 10)
        task = "regression" if many_numbers and not known else "binary" if len(known or counts) <= 2 else "multiclass"
    if task == "regression":
        return "regression", ()
    if task == "survival":
        raise UsageError("survival needs the columns --time and --event")
    if known:
        if unknown := sorted(set(counts) - set(known)):
            raise UsageError(f"{path}: {label} has {', '.join(unknown)}; the run knows {', '.join(known)}")
        return ("binary" if len(known) == 2 else "multiclass"), tuple(known)
    if len(counts) < 2:
        raise UsageError(f"{path}: every patient has {label} {next(iter(counts))!r}: there is nothing to tell apart")
    if len(counts) > max(2, len(texts) // 2):
        raise UsageError(
            f"{path}: {label} has {len(counts)} different values for {len(texts)} patients, which are no classes; is "
            "it the right column? (--task regression for numbers)"
        )
    if task == "binary" and len(counts) != 2:
        raise UsageError(f"{path}: {label} has {len(counts)} values ({', '.join(sorted(counts))}), binary needs two")
    names = sorted(counts, key=float) if numbers else sorted(counts)
    if columns.positive is not None:
        if columns.positive not in names or len(names) != 2:
            raise UsageError(f"{path}: positive class {columns.positive!r} is none of two: {', '.join(names)}")
        names = sorted(names, key=lambda name: name == columns.positive)
    elif len(names) == 2 and _is_negative(names[1]) and not _is_negative(names[0]):
        names = names[::-1]
    return ("binary" if len(names) == 2 else "multiclass"), tuple(names)


def _is_negative(name: str) -> bool:
    plain = re.sub(r"[\W_]+", "", name.casefold())
    return plain in ("no", "none", "neg", "negative", "normal", "benign", "mss", "wt", "wildtype", "wild", "control")


def _survival(
    joined: Mapping[str, _Entry], left_out: tuple[LeftOut, ...], path: str, time: str, event: str
) -> PatientCohort:
    patients = []
    for entry in joined.values():
        seconds, happened = _number(path, entry, time), _EVENTS.get(entry.values[event].casefold().removesuffix(".0"))
        if seconds <= 0:
            raise UsageError(f"{path}, line {entry.line}: {time} is {seconds:g}; times must be above 0")
        if happened is None:
            raise UsageError(f"{path}, line {entry.line}: {event} is {entry.values[event]!r}; events are 1 or 0")
        patients.append(entry.patient(entry.values[time], seconds, happened))
    if not any(patient.event for patient in patients):
        raise UsageError(f"{path}: no patient has an event ({event} is 0 everywhere): there is nothing to learn")
    return PatientCohort(tuple(patients), "survival", (), time, left_out)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(path: str, entry: _Entry, name: str) -> float:
    text = entry.values[name]
    if not _is_number(text):
        raise UsageError(f"{path}, line {entry.line}: {name} of patient {entry.id} is {text!r}, which is no number")
    return float(text)
