"""The verbs over many slides."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.dry_run import estimates, format_estimates
from wsivit.cohort.job_log import JobLog, Record
from wsivit.cohort.jobs import Job, JobRunner, choose
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.parts import is_large, write_own
from wsivit.cohort.result import CohortResult
from wsivit.cohort.run_on_dask import run_on_dask
from wsivit.cohort.run_serial import run_serial
from wsivit.cohort.tasks import HeatmapTask, PredictTask, Task, TileTask, VerifyTask
from wsivit.errors import UsageError
from wsivit.heatmap import DEFAULT_FORMATS, Format, HeatmapOptions
from wsivit.inference import PredictOptions
from wsivit.io import progress_bar
from wsivit.slide_list import CohortSlide, find_slides
from wsivit.tiling import OnUnreadableTile, TileOptions

PathLike = str | os.PathLike[str]


class Cohort:
    """Many slides, and one folder for all that is made of them.

    Each verb does only what is missing or changed, records each slide in the ledger, and goes on where one fails.

    Parameters
    ----------
    sources : path or URL, or several
        Slides, tile stores, folders (with all folders in them), globs, tables (``.csv`` with a column ``path``), lists
        (``.txt``); or the output of a cohort.
    output : path or URL, optional
        Folder for everything; may be left out where `sources` is one.
    options : CohortOptions
        Workers, scheduler, which slides.
    progress : bool
        Show a progress bar.

    Attributes
    ----------
    slides : list of CohortSlide
    tree : CohortLayout
        Where things are.

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
        there = CohortLayout(named[0]) if len(named) == 1 else None
        inside = there is not None and there.is_there
        if output is None and not inside:
            raise UsageError("many slides need an output, -o: a folder for the ledger and all that is made")
        self.tree = CohortLayout(named[0] if output is None else output)
        if there is not None and inside:
            self.slides = there.slides()
        else:
            self.slides = find_slides(named, self.tree.names())
        self.options, self._progress = options, progress

    def tile(
        self,
        options: TileOptions = TileOptions(),
        *,
        open_options: Mapping[str, Any] = {},
        on_unreadable_tile: OnUnreadableTile = "skip",
        overwrite: bool = False,
    ) -> CohortResult:
        """Tile each slide into ``slides/<id>.zarr``; see `wsivit.tile`.

        Parameters
        ----------
        options : TileOptions
        opening : mapping
            ``slide_mpp``, and options of `wsivit.open_slide`; a scale in the table of slides goes before it.
        on_unreadable_tile : {"skip", "fail"}
        overwrite : bool
            Do all of it anew.
        """
        verb = TileTask(options, tuple(open_options.items()), on_unreadable_tile, self.options.threads)
        return self._run(verb, again=overwrite)

    def predict(
        self,
        model: PathLike,
        *,
        name: str | None = None,
        options: PredictOptions = PredictOptions(),
        open_options: Mapping[str, Any] = {},
    ) -> CohortResult:
        """Run a model over the tiles of each slide; see `wsivit.predict`.

        The model is loaded once in each process. A slide without tiles is read where it is, as `wsivit.predict` does.
        """
        return self._run(
            PredictTask.of(os.fspath(model), name, options, TileTask(open_options=tuple(open_options.items())))
        )

    def heatmap(
        self,
        *,
        run: str | None = None,
        formats: Sequence[Format] = DEFAULT_FORMATS,
        options: HeatmapOptions = HeatmapOptions(),
    ) -> CohortResult:
        """Draw the predictions of each slide into ``heatmaps/``; see `wsivit.heatmap`."""
        return self._run(HeatmapTask(run or "", tuple(formats), options))

    def verify(self, *, sample: int = 32) -> CohortResult:
        """Check the tiles of each slide; see `wsivit.verify`."""
        return self._run(VerifyTask(sample))

    def _run(self, verb: Task, *, again: bool = False) -> CohortResult:
        runner, ledger = JobRunner(verb, self.tree, self.options.plan), JobLog(self.tree.files)
        again = again or self.options.again
        chosen = self._chosen(runner)
        known = ledger.read(verb.verb, verb.run)
        jobs = choose(runner, chosen, known, again=again, retry_failed=self.options.retry_failed)
        jobs = jobs[: self.options.limit]
        result = CohortResult(verb.verb, self.tree.root, len(chosen), tuple(jobs), ())
        if self.options.plan:
            return self._planned(runner, result)
        self.tree.add_slides(self.slides)
        with progress_bar(len(jobs), verb.verb, "slide", show=self._progress and bool(jobs)) as advance:
            for record in self._done(runner, jobs):
                known[record.slide_id] = record
                advance(1)
        ledger.write_table([slide.id for slide in self.tree.slides()])
        return replace(result, records=tuple(known[slide.id] for slide in chosen if slide.id in known))

    def _planned(self, runner: JobRunner, result: CohortResult) -> CohortResult:
        self.tree.merged(self.slides)  # it may be another cohort's
        if not isinstance(runner.verb, TileTask):
            return replace(result, estimate="nothing is written")
        with progress_bar(len(result.jobs), "planning", "slide", show=self._progress) as advance:
            found = []
            for one in estimates(runner, result.jobs, self.options):
                found.append(one)
                advance(1)
        return replace(result, estimate=format_estimates(found))

    def _done(self, runner: JobRunner, jobs: Sequence[Job]) -> Iterator[Record]:
        if self.options.workers or self.options.address:
            return run_on_dask(runner, jobs, self.options)
        part, n = self.options.part()
        # Tasks of an array know nothing of each other: none could tell when all have begun to replace a store.
        large = [job for job in jobs if n > 1 and not job.rebuild and is_large(runner, job, self.options.split_gb)]
        return itertools.chain(
            (record for job in large if (record := write_own(runner, job, part, n))),
            run_serial(runner, [job for job in jobs if job not in large]),
        )

    def _chosen(self, runner: JobRunner) -> list[CohortSlide]:
        pattern = self.options.only
        chosen = [slide for slide in self.slides if pattern is None or fnmatchcase(slide.id, pattern)]
        if not chosen:
            names = ", ".join(slide.id for slide in self.slides[:3])
            raise UsageError(f"no slide is called {pattern}; there are {names}{', …' if len(self.slides) > 3 else ''}")
        part, n = self.options.part()
        if n == 1:
            return chosen
        # Every task of an array has its share of the large slides, and all of its share of the others.
        large = [is_large(runner, Job(slide, ""), self.options.split_gb) for slide in chosen]
        rest = itertools.count()
        return [slide for slide, big in zip(chosen, large, strict=True) if big or next(rest) % n == part]


def status(cohort: PathLike) -> dict[str, list[Record]]:
    """Tell how far a cohort is, also while it is being worked on; ``ledger.csv`` is brought up to date.

    Parameters
    ----------
    cohort : path or URL
        The output of a cohort.

    Returns
    -------
    dict of str to list of Record
        By verb (``tile``, ``predict vit``), what is known of each slide.

    Raises
    ------
    UsageError
        There is no cohort.
    """
    tree = CohortLayout(cohort)
    if not tree.is_there:
        raise UsageError(f"{tree.root}: not the output of a cohort: there is no cohort.csv")
    records = JobLog(tree.files).write_table([slide.id for slide in tree.slides()])
    kinds = dict.fromkeys(f"{record.verb} {record.run}".strip() for record in records)
    return {kind: [record for record in records if f"{record.verb} {record.run}".strip() == kind] for kind in kinds}
