"""The verbs over many slides."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from html import escape
from itertools import islice
from typing import Any

from wsivit._keywords import options_as_keywords
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.dry_run import Estimate, estimate, format_estimates
from wsivit.cohort.job_log import STATES, JobLog, Record, shorten
from wsivit.cohort.jobs import Job, JobRunner, run_jobs
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.tasks import FeaturesTask, HeatmapTask, PredictTask, Task, TileTask, VerifyTask
from wsivit.errors import SlideError, UnreadableTilesError, UsageError
from wsivit.heatmap import DEFAULT_FORMATS, Format, HeatmapOptions, check_formats
from wsivit.inference import (
    FeatureExtractor,
    FeaturesOptions,
    PredictOptions,
    Predictor,
    ScoringOptions,
    choose_device,
)
from wsivit.io import progress_bar, require_main_guard
from wsivit.slide_list import SlideRow, Sources, find_slides, locations
from wsivit.store import TileStore
from wsivit.tiling import OnUnreadableTile, TileOptions

PathLike = str | os.PathLike[str]
_LOCAL_DEVICES = ("auto", "cpu")


@dataclass(frozen=True)
class CohortResult:
    """The result of a verb over many slides.

    Attributes
    ----------
    verb, output : str
    slides : int
        How many were selected.
    jobs : tuple of Job
        Slides that had to be processed, and why; `Job.slide`, `Job.why`.
    records : tuple of Record
        Status of the selected slides.
    estimate : str
        Of a dry run: what it would take.
    """

    verb: str
    output: str
    slides: int
    jobs: tuple[Job, ...]
    records: tuple[Record, ...]
    estimate: str = ""

    @property
    def exit_code(self) -> int:
        """0 where all is done, 4 where tiles are unreadable; else the code of the failures, 3 where these differ."""
        codes = {record.exit_code or SlideError.exit_code for record in self.records if record.state == "failed"}
        if codes:
            return codes.pop() if len(codes) == 1 else SlideError.exit_code
        unfinished = any(record.state in ("partial", "running", "interrupted") for record in self.records)
        return UnreadableTilesError.exit_code if unfinished else 0

    def report(self) -> str:
        """Summarize it for people."""
        head = f"{self.verb}: {self.slides} slides, {len(self.jobs)} to do"
        lines = [head, *shorten([f"  {job.slide.id}: {job.why}" for job in self.jobs if job.why != "new"])]
        if self.estimate:
            return "\n".join([*lines, self.estimate])
        lines += summary(self.records)
        selected = {job.slide.id for job in self.jobs}
        if before := sum(record.state == "failed" and record.slide_id not in selected for record in self.records):
            lines.append(f"{before} failed before and are left as they are: --retry-failed processes them again")
        return "\n".join([*lines, f"ledger   {self.output}"])

    def __str__(self) -> str:
        return self.report()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.report())}</pre>"


class Cohort:
    """Many slides, and one folder for all results.

    Each verb processes only slides that are new or changed, records the status of each in ``ledger.csv``, and continues
    where one fails.

    Parameters
    ----------
    sources : path, URL or TileStore, or several
        Slides, tile stores, folders (with all folders in them), globs, tables (``.csv`` with a column ``path``), lists
        (``.txt``); or the output of a cohort.
    output : path or URL, optional
        Folder for all results. Default: `sources`, where that is the output of a cohort.
    options : CohortOptions
        Workers, scheduler, which slides.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options`, in its place.

    Attributes
    ----------
    slides : list of SlideRow
    layout : CohortLayout
        Where the results are.

    Raises
    ------
    UsageError
        If there are no slides, a table cannot be used, or there is no output.
    """

    @options_as_keywords
    def __init__(
        self,
        sources: Sources,
        output: PathLike | None = None,
        options: CohortOptions = CohortOptions(),
        *,
        progress: bool = False,
        **keywords: Any,
    ) -> None:
        named = locations(sources)
        existing = CohortLayout(named[0]) if len(named) == 1 and CohortLayout(named[0]).exists else None
        if output is None and existing is None:
            raise UsageError("many slides need an output, -o: a folder for all results")
        self.layout = CohortLayout(named[0] if output is None else output)
        self.slides = existing.slides() if existing else self._find(named)
        self.options, self._progress = options, progress

    def _find(self, named: Sequence[str]) -> list[SlideRow]:
        found = find_slides(named, self.layout.ids())
        # Tiles that this cohort has made go before those that lie next to the slide.
        own = {slide.source: slide.store for slide in self.layout.slides() if slide.path}
        return [replace(slide, store=own.get(slide.source, slide.store)) if slide.path else slide for slide in found]

    @options_as_keywords
    def tile(
        self,
        options: TileOptions = TileOptions(),
        *,
        slide_mpp: float | None = None,
        open_options: Mapping[str, Any] = {},
        on_unreadable_tile: OnUnreadableTile = "skip",
        **keywords: Any,
    ) -> CohortResult:
        """Tile each slide into ``slides/<id>.zarr``; see `wsivit.tile`.

        Parameters
        ----------
        options : TileOptions
        slide_mpp : float, optional
            Microns per pixel of the slides whose files have no scale; a scale in the table of slides goes first.
        open_options : mapping
            ``slide_mpp``, ``override_slide_mpp`` (instead of the scale that files have), and options of
            `wsivit.open_slide`.
        on_unreadable_tile : {"skip", "skip-all", "fail"}
        **keywords
            The fields of `options`, in its place.
        """
        opening = open_options if slide_mpp is None else {**open_options, "slide_mpp": slide_mpp}
        task = TileTask(options, opening, on_unreadable_tile, self.options.threads)
        task.check()
        # A store that only lies next to a slide in a folder is another run's output, and not where this one writes.
        own = posixpath.join(self.layout.root, "slides") + "/"
        self.slides = [
            replace(slide, store="") if slide.path and not slide.line and not slide.store.startswith(own) else slide
            for slide in self.slides
        ]
        slides = [slide for slide in self._selected() if slide.path or slide.line]
        if not slides:
            raise UsageError("there are only tile stores among the sources, and no slide to tile")
        return self._run(task, slides)

    @options_as_keywords
    def predict(
        self,
        model: PathLike,
        *,
        name: str | None = None,
        options: PredictOptions = PredictOptions(),
        open_options: Mapping[str, Any] = {},
        **keywords: Any,
    ) -> CohortResult:
        """Run a model over the tiles of each slide; see `wsivit.predict`.

        Each process loads the model once. Of a slide without tiles only the coordinates are stored.
        """
        model = os.fspath(model)
        predictor = Predictor(model, name=name, options=options)
        slides = TileTask(open_options=open_options)
        self._check_model(predictor, options.device, slides)
        return self._run(PredictTask(model=model, options=options, slides=slides, run=predictor.name))

    @options_as_keywords
    def features(
        self,
        encoder: PathLike | Sequence[PathLike],
        *,
        options: FeaturesOptions = FeaturesOptions(),
        open_options: Mapping[str, Any] = {},
        **keywords: Any,
    ) -> CohortResult:
        """Keep what encoders make of the tiles of each slide; see `wsivit.features`.

        Each process loads the encoders once. Of a slide without tiles only the coordinates are stored.
        """
        extractor = FeatureExtractor(encoder, options=options)
        slides = TileTask(open_options=open_options)
        self._check_model(extractor, options.device, slides)
        names = [os.fspath(name) for name in ([encoder] if isinstance(encoder, str | os.PathLike) else encoder)]
        run = "_and_".join(extractor.names)
        return self._run(FeaturesTask(encoders=tuple(names), options=options, slides=slides, run=run))

    def _check_model(self, model: Predictor | FeatureExtractor, device: str, slides: TileTask) -> None:
        """Raise what every slide would: a device that is not here, tiles that the model does not describe."""
        slides.check()
        if not self.options.address and not self.options.dry_run:
            for name in device.split(","):
                if name.strip() not in _LOCAL_DEVICES:
                    choose_device(replace(ScoringOptions(), device=name.strip()))
        if any(slide.path and not TileStore.is_store(self.layout.store(slide)) for slide in self._selected()):
            model.tile_options  # noqa: B018 - raises where it does not say its scale

    @options_as_keywords
    def heatmap(
        self,
        *,
        run: str | None = None,
        formats: Sequence[Format] = DEFAULT_FORMATS,
        options: HeatmapOptions = HeatmapOptions(),
        **keywords: Any,
    ) -> CohortResult:
        """Draw the predictions of each slide into ``heatmaps/``; see `wsivit.heatmap`."""
        check_formats(formats, options)  # once, and not for every slide
        return self._run(HeatmapTask(tuple(formats), options, run=run or ""))

    def verify(self, *, sample: int = 32) -> CohortResult:
        """Check the tiles of each slide; see `wsivit.verify`."""
        return self._run(VerifyTask(sample))

    def _run(self, task: Task, selected: list[SlideRow] | None = None) -> CohortResult:
        if self.options.workers:
            require_main_guard()
        options, log = self.options, JobLog(self.layout.files)
        runner = JobRunner(task, self.layout, options.dry_run)
        slides, records = self._selected() if selected is None else selected, log.read(task.verb, task.run)
        # Lazily: with `max_slides` the inputs of the others are not looked at.
        decisions = (
            runner.decide(slide, records.get(slide.id), force=options.force, retry_failed=options.retry_failed)
            for slide in slides
        )
        jobs = list(islice((job for job in decisions if job is not None), options.max_slides))
        result = CohortResult(task.verb, self.layout.root, len(slides), tuple(jobs), ())
        if options.dry_run:
            return replace(result, estimate=self._estimate(task, jobs))
        self.layout.add_slides(self.slides)
        with progress_bar(len(jobs), task.verb, "slide", show=self._progress and bool(jobs)) as advance:
            tiles = 0
            for record in run_jobs(runner.do, runner.end, jobs, options, self.layout):
                records[record.slide_id] = record
                tiles += record.tiles
                advance(1, f"{tiles:,} tiles")
        # Of all slides, not of those selected: other tasks of a job array write the same table.
        log.write_table([slide.id for slide in self.layout.slides()])
        return replace(result, records=tuple(records[slide.id] for slide in slides if slide.id in records))

    def _estimate(self, task: Task, jobs: Sequence[Job]) -> str:
        self.layout.merge(self.slides)  # raises where it holds another cohort
        if not isinstance(task, TileTask):
            return "nothing is written"
        estimates: dict[str, Estimate] = {}
        with progress_bar(len(jobs), "planning", "slide", show=self._progress) as advance:
            work = partial(estimate, task)
            for done in run_jobs(work, lambda job, why: Estimate(job.slide.id, why), jobs, self.options, self.layout):
                estimates[done.slide_id] = done
                advance(1)
        return format_estimates([estimates[job.slide.id] for job in jobs])

    def _selected(self) -> list[SlideRow]:
        pattern, (part, parts) = self.options.include, self.options.part()
        selected = [slide for slide in self.slides if pattern is None or fnmatchcase(slide.id, pattern)]
        if not selected:
            ids = ", ".join(slide.id for slide in self.slides[:3])
            raise UsageError(f"no slide is called {pattern}; there are {ids}{', …' if len(self.slides) > 3 else ''}")
        return selected[part::parts]


def status(cohort: PathLike) -> dict[str, list[Record]]:
    """Show the progress of a cohort, also while it is being processed, and update its ``ledger.csv``.

    Parameters
    ----------
    cohort : path or URL
        The output of a cohort.

    Returns
    -------
    dict of str to list of Record
        By verb and run (``tile``, ``predict vit``), the record of each slide.

    Raises
    ------
    UsageError
        If it is not the output of a cohort.
    """
    layout = CohortLayout.existing(cohort)
    by_verb: dict[str, list[Record]] = {}
    for record in JobLog(layout.files).write_table([slide.id for slide in layout.slides()]):
        by_verb.setdefault(f"{record.verb} {record.run}".strip(), []).append(record)
    return by_verb


def summary(records: Sequence[Record]) -> list[str]:
    """Count the records of one verb by state, and list those that need attention."""
    count = Counter(record.state for record in records)
    states = ", ".join(f"{count[state]} {state.replace('_', ' ')}" for state in STATES if count[state])
    tiles, size = sum(record.tiles for record in records), sum(record.bytes for record in records)
    seconds = sum(record.seconds for record in records)
    lines = [f"{states or 'nothing'}: {tiles} tiles, {size / 1e9:.3g} GB, {seconds:.0f} s of work"]
    for state in ("failed", "partial", "interrupted", "running", "skipped"):
        named = []
        for record in records:
            if record.state == state:
                code = f" (exit code {record.exit_code})" if record.exit_code else ""
                worker = f" by {record.worker} since {record.updated}" if state in ("interrupted", "running") else ""
                named.append(f"{state:8} {record.slide_id}: {record.reason}{code}{worker}")
        lines += shorten(named)
    lines += shorten([f"WARNING  {record.slide_id}: {record.warning}" for record in records if record.warning])
    return lines
