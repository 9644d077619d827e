"""One large slide done by many: begun by one, its shards written by all, finished by one."""

from __future__ import annotations

import time

from wsivit.cohort.inputs import size_of
from wsivit.cohort.ledger import Record
from wsivit.cohort.verbs import Outcome, Skipped, TileVerb, failure, tiled
from wsivit.cohort.work import Bench, Job
from wsivit.errors import StoreError, WsivitError
from wsivit.slide import Slide, open_slide
from wsivit.store import StoreWriter, TileStore

GB = 1e9
_FEWEST = 2
"""Shards from which there is something to share."""


def is_large(bench: Bench, job: Job, split_gb: float) -> bool:
    """Whether a job is to be shared out: by the slide's size on disk, which all processes agree on."""
    verb = bench.verb
    if not isinstance(verb, TileVerb) or verb.options.codec == "none" or job.anew or not job.slide.path:
        return False
    try:
        return size_of(job.slide.path) >= split_gb * GB
    except OSError:
        return False  # it will fail as a whole


def begin(bench: Bench, job: Job) -> Record | list[range]:
    """Do all but the shards; return those, or the record where nothing is left to share."""
    bench.check_version()
    verb, began = _tile_verb(bench), time.monotonic()
    bench.begin(job)
    place = bench.tree.place(job.slide)
    try:
        with verb.open(job.slide) as slide:
            tiler = verb.tiler(job.slide, anew=False)
            shards = tiler.begin(slide, place, tiler.lay_out(slide, place))
            if len(shards) < _FEWEST:
                tiler.write(slide, place.store, shards)
                return bench.end(job, tiled(tiler.finish(slide, place.store), bench.tree), time.monotonic() - began)
            return shards
    except Skipped as error:
        return bench.end(job, Outcome("skipped", str(error)), time.monotonic() - began)
    except (WsivitError, OSError) as error:
        return bench.end(job, failure(error), time.monotonic() - began)


def write(bench: Bench, job: Job, shard: range) -> tuple[float, str]:
    """Write one shard; return the seconds it took, and why a tile of it could not be read."""
    bench.check_version()
    verb, began, store = _tile_verb(bench), time.monotonic(), bench.tree.store(job.slide)
    with _reopened(verb, job, store) as slide:
        bad = verb.tiler(job.slide, anew=False).write(slide, store, [shard])
    return time.monotonic() - began, next(iter(bad.values()), "")


def finish(bench: Bench, job: Job, seconds: float, why: str) -> Record:
    """Complete a store whose shards are written."""
    verb, began, store = _tile_verb(bench), time.monotonic(), bench.tree.store(job.slide)
    try:
        with _reopened(verb, job, store) as slide:
            done = verb.tiler(job.slide, anew=False).finish(slide, store)
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
