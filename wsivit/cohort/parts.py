"""One large slide done by many: begun by one, its shards written by all, finished by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wsivit.cohort.inputs import size_of
from wsivit.cohort.job_log import Record
from wsivit.cohort.jobs import Job, JobRunner
from wsivit.cohort.tasks import JobOutcome, Skipped, TileTask, failure, tiled
from wsivit.errors import StoreError, WsivitError
from wsivit.io import exclusive, files_at, is_url, recover_replace, staging_path
from wsivit.slide import Slide, open_slide
from wsivit.store import StoreWriter, TileStore

GB = 1e9
_FEWEST = 2
"""Shards from which there is something to share."""
_WAIT_S = 60.0


def is_large(runner: JobRunner, job: Job, split_gb: float) -> bool:
    """Whether a job is to be shared out: by the slide's size on disk, which all processes agree on."""
    verb = runner.verb
    if not isinstance(verb, TileTask) or verb.options.codec == "none" or not job.slide.path:
        return False
    if job.rebuild and is_url(runner.tree.store(job.slide)):
        return False  # an object store cannot put one thing in place of another
    try:
        return size_of(job.slide.path) >= split_gb * GB
    except OSError:
        return False  # it will fail as a whole


def begin(runner: JobRunner, job: Job) -> Record | list[range]:
    """Do all but the shards; return those, or the record where nothing is left to share."""
    runner.check_version()
    verb, began = _tile_verb(runner), time.monotonic()
    runner.begin(job)
    place = replace(runner.tree.place(job.slide), store=_site(runner, job))
    try:
        with verb.open(job.slide) as slide, _alone(runner, job):
            tiler = verb.tiler(job.slide, rebuild=job.rebuild)
            shards = tiler.begin(slide, place, tiler.plan_tiling(slide, place))
        if len(shards) >= _FEWEST:
            return shards
        why = "".join(write(runner, job, shard)[1] for shard in shards)
        return finish(runner, job, time.monotonic() - began, why)
    except Skipped as error:
        return runner.end(job, JobOutcome("skipped", str(error)), time.monotonic() - began)
    except (WsivitError, OSError) as error:
        return runner.end(job, failure(error), time.monotonic() - began)


def write(runner: JobRunner, job: Job, shard: range) -> tuple[float, str]:
    """Write one shard; return the seconds it took, and why a tile of it could not be read."""
    runner.check_version()
    verb, began, site = _tile_verb(runner), time.monotonic(), _site(runner, job)
    with _reopened(verb, job, site) as slide:
        bad = verb.tiler(job.slide, rebuild=False).write(slide, site, [shard])
    return time.monotonic() - began, next(iter(bad.values()), "")


def finish(runner: JobRunner, job: Job, seconds: float, why: str) -> Record:
    """Complete a store whose shards are written."""
    verb, began, store = _tile_verb(runner), time.monotonic(), runner.tree.store(job.slide)
    try:
        with _alone(runner, job):
            site = _site(runner, job)
            if not TileStore.is_store(site):  # it is in its place: who put it there was killed before saying so
                site = store
            with _reopened(verb, job, site) as slide:
                done = verb.tiler(job.slide, rebuild=False).finish(slide, site, None if site == store else store)
    except (WsivitError, OSError) as error:
        return runner.end(job, failure(error), seconds)
    return runner.end(job, tiled(done, runner.tree, why), seconds + time.monotonic() - began)


def write_own(runner: JobRunner, job: Job, part: int, parts: int) -> Record | None:
    """Begin a store unless it is begun, write every n-th shard, and complete it if the others are there.

    For tasks that know nothing of each other; each begins the same store, and writes other shards.

    Returns
    -------
    Record or None
        None where shards of others are missing still.
    """
    left = begin(runner, job)
    if isinstance(left, Record):
        return left
    began, why = time.monotonic(), ""
    store = runner.tree.store(job.slide)
    with StoreWriter.join(store) as writer:
        size = writer.parameters.shard_tiles
    own = [shard for shard in left if shard.start // size % parts == part]
    try:
        for shard in own:
            why = write(runner, job, shard)[1] or why
        with StoreWriter.join(store) as writer:
            missing = writer.pending()
        return None if missing else finish(runner, job, time.monotonic() - began, why)
    except (WsivitError, OSError) as error:
        return runner.end(job, failure(error), time.monotonic() - began)


def _site(runner: JobRunner, job: Job) -> str:
    """Where the store is built: beside the one that it replaces, or where it belongs."""
    store = runner.tree.store(job.slide)
    return str(staging_path(Path(store))) if job.rebuild else store


@contextmanager
def _alone(runner: JobRunner, job: Job) -> Iterator[None]:
    """Keep others, such as a worker of a scheduler that was lost, from beginning or ending to replace a store too."""
    if not job.rebuild:
        yield
        return
    store = runner.tree.store(job.slide)
    with exclusive(files_at(store), wait=_WAIT_S):
        recover_replace(Path(store), Path(_site(runner, job)))
        yield


def _reopened(verb: TileTask, job: Job, store: str) -> Slide:
    """Open a slide as it was opened when its store was begun; its reader was chosen and checked then."""
    made = TileStore(store, allow_incomplete=True).parameters
    slide = open_slide(job.slide.path, **made.open_options)
    slide.threads = verb.threads or slide.threads
    if slide.fingerprint != made.slide_fingerprint:
        raise StoreError(f"{job.slide.path} has changed while it was tiled: run the same command again")
    return slide


def _tile_verb(runner: JobRunner) -> TileTask:
    if not isinstance(runner.verb, TileTask):
        raise TypeError(f"{runner.verb.verb} is not done in parts")
    return runner.verb
