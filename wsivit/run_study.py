"""A whole study from one file: tile, features, train, predict, heatmap, report, over the same slides."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from wsivit.cohort import Cohort, CohortOptions, CohortResult
from wsivit.errors import UnreadableTilesError, UsageError
from wsivit.heatmap import DEFAULT_FORMATS, HeatmapOptions, check_formats
from wsivit.inference import FeaturesOptions, PredictOptions
from wsivit.io import read_toml, suggestion
from wsivit.models import CONTRACT, RunMetadata
from wsivit.ranges import MAGNIFICATIONS
from wsivit.report import ReportOptions, report
from wsivit.slide import MICRONS_AT_1X
from wsivit.tiling import LABEL, TileOptions
from wsivit.training import TrainOptions, train

PathLike = str | os.PathLike[str]
Options = TypeVar("Options")

_log = logging.getLogger(__name__)

_OPEN = ("slide_mpp", "override_slide_mpp", "reader", "jpeg_color", "scene", "max_pixels", "subprocess")
"""Options of a step on slides that say how a slide is opened."""
_STEPS: dict[str, tuple[type, tuple[str, ...]]] = {
    "tile": (TileOptions, (*_OPEN, "on_unreadable_tile")),
    "features": (FeaturesOptions, (*_OPEN, "encoder")),
    "train": (TrainOptions, ("model", "label", "output")),
    "predict": (PredictOptions, (*_OPEN, "model", "name")),
    "heatmap": (HeatmapOptions, ("run", "format")),
    "report": (ReportOptions, ()),
}
"""The steps in their order: the options of each, and what else its table may hold, under the names of its verb."""
_OF_MANY = ("tile", "features", "predict", "heatmap")
"""Steps that a cohort does slide by slide; the workers of a training read tiles."""
_STUDY = ("slides", "output", "label")
_ALIASES = {"mag": "mpp", "magnification": "mpp", "patch_size": "tile_size", "learning_rate": "lr", "formats": "format"}


@dataclass(frozen=True)
class StudyStep:
    """One step of a study.

    Attributes
    ----------
    verb : str
    plan : str
        What it does, and to what.
    report : str
        What came of it; empty in a dry run.
    exit_code : int
        0; 4 where tiles are unreadable; otherwise that of the slides that failed.
    """

    verb: str
    plan: str
    report: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes
    ----------
    output : str
        Folder of all results.
    steps : tuple of StudyStep
    """

    output: str
    steps: tuple[StudyStep, ...]

    @property
    def exit_code(self) -> int:
        """That of the first step in which slides failed; 4 where only tiles are unreadable."""
        codes = [step.exit_code for step in self.steps if step.exit_code]
        return next((code for code in codes if code != UnreadableTilesError.exit_code), codes[0] if codes else 0)

    def report(self) -> str:
        """Summarize it for people: the plan, where nothing was done."""
        return "\n".join(step.report or f"{step.verb:9} {step.plan}" for step in self.steps)


def run_study(study: PathLike, *, dry_run: bool = False, progress: bool = False) -> StudyResult:
    """Run a whole study from one file: tile, features, train, predict, heatmap, report.

    A step runs where the file has a table for it, with the options of its verb; options above the tables are for every
    step that has them. All of them are checked before the first step begins. Each step processes what is new or
    changed, so that an interrupted study resumes when it is run again, and a finished one does nothing.

    Parameters
    ----------
    study : path
        A TOML file: ``slides`` (folders, globs, tables), ``output``, and a table for each step. Paths are relative to
        the working directory.
    dry_run : bool
        Report the plan and write nothing.
    progress : bool
        Show progress bars.

    Returns
    -------
    StudyResult

    Raises
    ------
    UsageError
        A key is unknown, a value out of its range, a step lacks what it needs, or a run exists that was trained in
        another way.
    """
    return _Study.read(study).run(dry_run=dry_run, progress=progress)


@dataclass(frozen=True)
class _Study:
    """What the file says, checked."""

    slides: list[str]
    output: str
    tables: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: PathLike) -> _Study:
        document = {_key(name): value for name, value in read_toml(path).items()}
        given = {name: _canonical(path, table) for name, table in document.items() if isinstance(table, dict)}
        shared = _canonical(path, {name: value for name, value in document.items() if name not in given})
        for name in given:
            if name not in _STEPS:
                raise UsageError(f"{path}: there is no step {name}{suggestion(name, _STEPS)}")
        for name in ("slides", "output"):
            if not shared.get(name):
                raise UsageError(f"{path}: {name} is missing")
        everything = set(_STUDY).union(*map(_known, _STEPS))
        for name in shared.keys() - everything:
            raise UsageError(f"{path}: no step has an option {name}{suggestion(name, everything)}")
        tables: dict[str, dict[str, Any]] = {}
        for verb in _STEPS:
            if verb not in given:
                continue
            for name in given[verb].keys() - _known(verb):
                raise UsageError(f"{path}: [{verb}] has no option {name}{suggestion(name, _known(verb))}")
            # `output` is the study's folder, and `label` what is learnt; a report's is a column of the table of slides.
            own = _known(verb) - ({"output", "label"} if verb == "report" else {"output"})
            of_all = {name: value for name, value in shared.items() if name in own}
            tables[verb] = of_all | given[verb]
        if not tables:
            raise UsageError(f"{path}: there is no step: give a table, such as [tile]")
        result = cls(_several(shared["slides"]), str(shared["output"]), tables)
        try:
            result._check()
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return result

    def _check(self) -> None:
        """Make all options, which checks them, before the first step begins."""
        for verb, table in self.tables.items():
            options = _options(_STEPS[verb][0], table)
            if verb in _OF_MANY:
                _options(CohortOptions, table)
            if verb == "heatmap":
                check_formats(self._formats(), options)
        if "features" in self.tables and "encoder" not in self.tables["features"]:
            raise UsageError("[features] needs an encoder: wsivit encoders lists them")
        if "train" in self.tables and "model" not in self.tables["train"]:
            raise UsageError("[train] needs a model, such as vit_small_patch16_224.augreg_in21k")
        if "predict" in self.tables and "train" not in self.tables and "model" not in self.tables["predict"]:
            raise UsageError("[predict] needs a model, or a step [train]")
        if "heatmap" in self.tables and "predict" not in self.tables and "run" not in self.tables["heatmap"]:
            raise UsageError("[heatmap] needs a run, or a step [predict]")
        if self._is_trained():
            self._require_same_training()

    def run(self, *, dry_run: bool, progress: bool) -> StudyResult:
        """Log the plan, then do one step after the other."""
        steps = tuple(StudyStep(verb, getattr(self, f"_plan_{verb}")()) for verb in self.tables)
        if dry_run:
            return StudyResult(self.output, steps)
        for step in steps:
            _log.info("plan: %-9s %s", step.verb, step.plan)
        done = []
        for step in steps:
            _log.info("%s", step.verb)
            text, code = getattr(self, f"_run_{step.verb}")(progress)
            done.append(replace(step, report=text, exit_code=code))
        return StudyResult(self.output, tuple(done))

    # Each step: what it will do, and doing it.

    def _plan_tile(self) -> str:
        options = _options(TileOptions, self.tables["tile"])
        result = self._tile(dry_run=True)
        what = f"{options.tile_size} px at {options.mpp:g} microns per pixel"
        return f"{result.slides} slides, {len(result.jobs)} to do: {what}, into {self.output}/slides"

    def _run_tile(self, progress: bool) -> tuple[str, int]:
        return _outcome(self._tile(progress=progress))

    def _tile(self, *, dry_run: bool = False, progress: bool = False) -> CohortResult:
        table = self.tables["tile"]
        how = {"on_unreadable_tile": table["on_unreadable_tile"]} if "on_unreadable_tile" in table else {}
        cohort = self._cohort("tile", dry_run=dry_run, progress=progress)
        return cohort.tile(_options(TileOptions, table), open_options=_open_options(table), **how)

    def _plan_features(self) -> str:
        return f"of every tile, by {', '.join(_several(self.tables['features']['encoder']))}"

    def _run_features(self, progress: bool) -> tuple[str, int]:
        table = self.tables["features"]
        cohort = self._cohort("features", progress=progress)
        options = _options(FeaturesOptions, table)
        return _outcome(cohort.features(_several(table["encoder"]), options=options, open_options=_open_options(table)))

    def _plan_train(self) -> str:
        state = "done" if self._is_trained() else f"{self.tables['train']['model']} on the label {self._label}"
        return f"{state}, into {self._run_folder}"

    def _run_train(self, progress: bool) -> tuple[str, int]:
        if self._is_trained():
            return f"train: done already\nrun      {self._run_folder}", 0
        table = self.tables["train"]
        result = train(
            [Path(self.output, "cohort.csv")],
            model=table["model"],
            output=self._run_folder,
            label=self._label,
            options=_options(TrainOptions, table),
            progress=progress,
        )
        figures = ", ".join(f"{name} {value:.3f}" for name, value in result.test.items())
        return f"train: held out {figures}\nrun      {result.folder}", 0

    def _plan_predict(self) -> str:
        return f"every tile, by {self._model}"

    def _run_predict(self, progress: bool) -> tuple[str, int]:
        table = self.tables["predict"]
        cohort, options = self._cohort("predict", progress=progress), _options(PredictOptions, table)
        how = _open_options(table)
        return _outcome(cohort.predict(self._model, name=table.get("name"), options=options, open_options=how))

    def _plan_heatmap(self) -> str:
        return f"{', '.join(self._formats())}, into {self.output}/heatmaps"

    def _run_heatmap(self, progress: bool) -> tuple[str, int]:
        table = self.tables["heatmap"]
        run = table.get("run") or self.tables["predict"].get("name") or Path(self._model).name
        cohort, options = self._cohort("heatmap", progress=progress), _options(HeatmapOptions, table)
        return _outcome(cohort.heatmap(run=run, formats=self._formats(), options=options))

    def _plan_report(self) -> str:
        return f"of the study, {Path(self.output, 'report.html')}"

    def _run_report(self, _: bool) -> tuple[str, int]:
        made = report(self.output, Path(self.output, "report.html"), _options(ReportOptions, self.tables["report"]))
        return "\n".join(f"report   {path}" for path in made), 0

    # What the steps have in common.

    def _cohort(self, verb: str, *, dry_run: bool = False, progress: bool = False) -> Cohort:
        options = replace(_options(CohortOptions, self.tables[verb]), dry_run=dry_run)
        # Only the first step looks for slides: the later ones take those that it recorded.
        first = verb == next(iter(self.tables))
        return Cohort(self.slides if first else self.output, self.output, options, progress=progress)

    @property
    def _label(self) -> str:
        return str(self.tables["train"].get("label", LABEL))

    @property
    def _run_folder(self) -> str:
        return str(self.tables["train"].get("output") or Path(self.output, "runs", self._label))

    @property
    def _model(self) -> str:
        return str(self.tables["predict"].get("model") or self._run_folder)

    def _formats(self) -> tuple[Any, ...]:
        given = self.tables["heatmap"].get("format")
        return DEFAULT_FORMATS if given is None else tuple(_several(given))

    def _is_trained(self) -> bool:
        if "train" not in self.tables or not Path(self._run_folder, CONTRACT).is_file():
            return False
        return RunMetadata.read(self._run_folder).done

    def _require_same_training(self) -> None:
        """Refuse a finished run that was trained in another way than the file says."""
        existing, table = RunMetadata.read(self._run_folder), self.tables["train"]
        asked = {"model": table["model"], "label": self._label} | {
            name: value for name, value in table.items() if name in existing.options and value != "auto"
        }
        there = {**existing.options, "model": existing.model, "label": existing.label}
        changed = [name for name in asked if there[name] != asked[name]]
        other = [f"{name}: {there[name]!r} there, {asked[name]!r} asked for" for name in changed]
        if other:
            raise UsageError(
                f"{self._run_folder} was trained in another way ({'; '.join(other)}): give [train] another output"
            )


def _known(verb: str) -> set[str]:
    """Names that the table of a step may hold."""
    options, extra = _STEPS[verb]
    of_many = {field.name for field in fields(CohortOptions)} - {"dry_run", "array_task"}
    own = {field.name for field in fields(options)}
    return own | set(extra) | (of_many if verb in _OF_MANY else set())


def _options(kind: Callable[..., Options], table: Mapping[str, Any]) -> Options:
    """Make the options of a class from those values of a table that are its own."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in table.items() if name in names})


def _open_options(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: table[name] for name in _OPEN if name in table}


def _outcome(result: CohortResult) -> tuple[str, int]:
    return result.report(), result.exit_code


def _several(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _key(name: str) -> str:
    return name.replace("-", "_")


def _canonical(path: PathLike, table: Mapping[str, Any]) -> dict[str, Any]:
    """Give options their first names; a magnification becomes a scale."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        first = _ALIASES.get(_key(name), _key(name))
        if first in values:
            raise UsageError(f"{path}: {first} is given twice, under two of its names")
        if first == "mpp" and _key(name) != "mpp":
            if not isinstance(value, int | float) or value not in MAGNIFICATIONS:
                raise UsageError(f"{path}: {name}: a magnification is {MAGNIFICATIONS}, not {value!r}")
            value = MICRONS_AT_1X / value
        values[first] = value
    return values
