"""The verbs over many slides."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.dry_run import Estimate, estimate, format_estimates
from wsivit.cohort.job_log import STATES, JobLog, Record, shorten
from wsivit.cohort.jobs import Job, JobRunner, run_jobs
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.tasks import FeaturesTask, HeatmapTask, PredictTask, Task, TileTask, VerifyTask
from wsivit.errors import SlideError, UnreadableTilesError, UsageError
from wsivit.heatmap import DEFAULT_FORMATS, Format, HeatmapOptions, check_formats
from wsivit.inference import FeatureExtractor, FeaturesOptions, PredictOptions, Predictor
from wsivit.io import progress_bar, require_main_guard
from wsivit.slide_list import SlideRow, find_slides
from wsivit.tiling import OnUnreadableTile, TileOptions

PathLike = str | os.PathLike[str]


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
        return "\n".join([*lines, *summary(self.records), f"ledger   {self.output}"])


class Cohort:
    """Many slides, and one folder for all results.

    Each verb processes only slides that are new or changed, records the status of each in ``ledger.csv``, and goes on
    where one fails.

    Parameters
    ----------
    sources : path or URL, or several
        Slides, tile stores, folders (with all folders in them), globs, tables (``.csv`` with a column ``path``), lists
        (``.txt``); or the output of a cohort.
    output : path or URL, optional
        Folder for all results. Default: `sources`, where that is the output of a cohort.
    options : CohortOptions
        Workers, scheduler, which slides.
    progress : bool
        Show a progress bar.

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

    def __init__(
        self,
        sources: PathLike | Sequence[PathLike],
        output: PathLike | None = None,
        options: CohortOptions = CohortOptions(),
        *,
        progress: bool = False,
    ) -> None:
        named = [os.fspath(sources)] if isinstance(sources, str | os.PathLike) else [os.fspath(s) for s in sources]
        existing = CohortLayout(named[0]) if len(named) == 1 and CohortLayout(named[0]).exists else None
        if output is None and existing is None:
            raise UsageError("many slides need an output, -o: a folder for all results")
        self.layout = CohortLayout(named[0] if output is None else output)
        self.slides = existing.slides() if existing else find_slides(named, self.layout.ids())
        self.options, self._progress = options, progress

    def tile(
        self,
        options: TileOptions = TileOptions(),
        *,
        open_options: Mapping[str, Any] = {},
        on_unreadable_tile: OnUnreadableTile = "skip",
    ) -> CohortResult:
        """Tile each slide into ``slides/<id>.zarr``; see `wsivit.tile`.

        Parameters
        ----------
        options : TileOptions
        open_options : mapping
            ``slide_mpp``, and options of `wsivit.open_slide`; a scale in the table of slides takes precedence.
        on_unreadable_tile : {"skip", "skip-all", "fail"}
        """
        return self._run(TileTask(options, open_options, on_unreadable_tile, self.options.threads))

    def predict(
        self,
        model: PathLike,
        *,
        name: str | None = None,
        options: PredictOptions = PredictOptions(),
        open_options: Mapping[str, Any] = {},
    ) -> CohortResult:
        """Run a model over the tiles of each slide; see `wsivit.predict`.

        Each process loads the model once. Of a slide without tiles only the coordinates are stored.
        """
        model = os.fspath(model)
        run = Predictor(model, name=name, options=options).name
        return self._run(PredictTask(model, options, TileTask(open_options=open_options), run=run))

    def features(
        self,
        encoder: PathLike | Sequence[PathLike],
        *,
        options: FeaturesOptions = FeaturesOptions(),
        open_options: Mapping[str, Any] = {},
    ) -> CohortResult:
        """Keep what encoders make of the tiles of each slide; see `wsivit.features`.

        Each process loads the encoders once. Of a slide without tiles only the coordinates are stored.
        """
        extractor = FeatureExtractor(encoder, options=options)  # refused here, and not for every slide
        names = [os.fspath(name) for name in ([encoder] if isinstance(encoder, str | os.PathLike) else encoder)]
        slides = TileTask(open_options=open_options)
        return self._run(FeaturesTask(tuple(names), options, slides, run="_and_".join(extractor.names)))

    def heatmap(
        self,
        *,
        run: str | None = None,
        formats: Sequence[Format] = DEFAULT_FORMATS,
        options: HeatmapOptions = HeatmapOptions(),
    ) -> CohortResult:
        """Draw the predictions of each slide into ``heatmaps/``; see `wsivit.heatmap`."""
        check_formats(formats, options)  # once, and not for every slide
        return self._run(HeatmapTask(tuple(formats), options, run=run or ""))

    def verify(self, *, sample: int = 32) -> CohortResult:
        """Check the tiles of each slide; see `wsivit.verify`."""
        return self._run(VerifyTask(sample))

    def _run(self, task: Task) -> CohortResult:
        if self.options.workers:
            require_main_guard()
        options, log = self.options, JobLog(self.layout.files)
        runner = JobRunner(task, self.layout, options.dry_run)
        slides, records = self._selected(), log.read(task.verb, task.run)
        decisions = (
            runner.decide(slide, records.get(slide.id), force=options.force, retry_failed=options.retry_failed)
            for slide in slides
        )
        jobs = [job for job in decisions if job is not None][: options.max_slides]
        result = CohortResult(task.verb, self.layout.root, len(slides), tuple(jobs), ())
        if options.dry_run:
            return replace(result, estimate=self._estimate(task, jobs))
        self.layout.add_slides(self.slides)
        with progress_bar(len(jobs), task.verb, "slide", show=self._progress and bool(jobs)) as advance:
            for record in run_jobs(runner.do, runner.end, jobs, options, self.layout):
                records[record.slide_id] = record
                advance(1)
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
    layout = CohortLayout(cohort)
    if not layout.exists:
        raise UsageError(f"{layout.root}: not the output of a cohort: there is no cohort.csv")
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
