"""One large slide done by many: begun by one, its shards written by all, finished by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wsivit.cohort.inputs import size_of
from wsivit.cohort.ledger import Record
from wsivit.cohort.verbs import Outcome, Skipped, TileVerb, failure, tiled
from wsivit.cohort.work import Bench, Job
from wsivit.errors import StoreError, WsivitError
from wsivit.remote import is_url
from wsivit.slide import Slide, open_slide
from wsivit.store import StoreWriter, TileStore
from wsivit.store.files import beside, files_at, recover_swap
from wsivit.store.lease import exclusive

GB = 1e9
_FEWEST = 2
"""Shards from which there is something to share."""
_WAIT_S = 60.0


def is_large(bench: Bench, job: Job, split_gb: float) -> bool:
    """Whether a job is to be shared out: by the slide's size on disk, which all processes agree on."""
    verb = bench.verb
    if not isinstance(verb, TileVerb) or verb.options.codec == "none" or not job.slide.path:
        return False
    if job.anew and is_url(bench.tree.store(job.slide)):
        return False  # an object store cannot put one thing in place of another
    try:
        return size_of(job.slide.path) >= split_gb * GB
    except OSError:
        return False  # it will fail as a whole


def begin(bench: Bench, job: Job) -> Record | list[range]:
    """Do all but the shards; return those, or the record where nothing is left to share."""
    bench.check_version()
    verb, began = _tile_verb(bench), time.monotonic()
    bench.begin(job)
    place = replace(bench.tree.place(job.slide), store=_site(bench, job))
    try:
        with verb.open(job.slide) as slide, _alone(bench, job):
            tiler = verb.tiler(job.slide, anew=job.anew)
            shards = tiler.begin(slide, place, tiler.lay_out(slide, place))
        if len(shards) >= _FEWEST:
            return shards
        why = "".join(write(bench, job, shard)[1] for shard in shards)
        return finish(bench, job, time.monotonic() - began, why)
    except Skipped as error:
        return bench.end(job, Outcome("skipped", str(error)), time.monotonic() - began)
    except (WsivitError, OSError) as error:
        return bench.end(job, failure(error), time.monotonic() - began)


def write(bench: Bench, job: Job, shard: range) -> tuple[float, str]:
    """Write one shard; return the seconds it took, and why a tile of it could not be read."""
    bench.check_version()
    verb, began, site = _tile_verb(bench), time.monotonic(), _site(bench, job)
    with _reopened(verb, job, site) as slide:
        bad = verb.tiler(job.slide, anew=False).write(slide, site, [shard])
    return time.monotonic() - began, next(iter(bad.values()), "")


def finish(bench: Bench, job: Job, seconds: float, why: str) -> Record:
    """Complete a store whose shards are written."""
    verb, began, store = _tile_verb(bench), time.monotonic(), bench.tree.store(job.slide)
    try:
        with _alone(bench, job):
            site = _site(bench, job)
            if not TileStore.is_store(site):  # it is in its place: who put it there was killed before saying so
                site = store
            with _reopened(verb, job, site) as slide:
                done = verb.tiler(job.slide, anew=False).finish(slide, site, None if site == store else store)
    except (WsivitError, OSError) as error:
        return bench.end(job, failure(error), seconds)
    return bench.end(job, tiled(done, bench.tree, why), seconds + time.monotonic() - began)


def write_own(bench: Bench, job: Job, part: int, parts: int) -> Record | None:
    """Begin a store unless it is begun, write every n-th shard, and complete it if the others are there.

    For tasks that know nothing of each other; each begins the same store, and writes other shards.

    Returns
    -------
    Record or None
        None where shards of others are missing still.
    """
    left = begin(bench, job)
    if isinstance(left, Record):
        return left
    began, why = time.monotonic(), ""
    store = bench.tree.store(job.slide)
    with StoreWriter.join(store) as writer:
        size = writer.parameters.shard_tiles
    own = [shard for shard in left if shard.start // size % parts == part]
    try:
        for shard in own:
            why = write(bench, job, shard)[1] or why
        with StoreWriter.join(store) as writer:
            missing = writer.pending()
        return None if missing else finish(bench, job, time.monotonic() - began, why)
    except (WsivitError, OSError) as error:
        return bench.end(job, failure(error), time.monotonic() - began)


def _site(bench: Bench, job: Job) -> str:
    """Where the store is built: beside the one that it replaces, or where it belongs."""
    store = bench.tree.store(job.slide)
    return str(beside(Path(store))) if job.anew else store


@contextmanager
def _alone(bench: Bench, job: Job) -> Iterator[None]:
    """Keep others, such as a worker of a scheduler that was lost, from beginning or ending to replace a store too."""
    if not job.anew:
        yield
        return
    store = bench.tree.store(job.slide)
    with exclusive(files_at(store), wait=_WAIT_S):
        recover_swap(Path(store), Path(_site(bench, job)))
        yield


def _reopened(verb: TileVerb, job: Job, store: str) -> Slide:
    """Open a slide as it was opened when its store was begun; its reader was chosen and checked then."""
    made = TileStore(store, allow_incomplete=True).parameters
    slide = open_slide(job.slide.path, **made.opening)
    slide.threads = verb.threads or slide.threads
    if slide.fingerprint != made.slide_fingerprint:
        raise StoreError(f"{job.slide.path} has changed while it was tiled: run the same command again")
    return slide


def _tile_verb(bench: Bench) -> TileVerb:
    if not isinstance(bench.verb, TileVerb):
        raise TypeError(f"{bench.verb.verb} is not done in parts")
    return bench.verb
