"""The order in which an epoch visits millions of tiles: shuffled, and still read shard by shard. Pure; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class OrderOptions:
    """How an epoch is shuffled.

    Parameters
    ----------
    batch_size : int
        Tiles of a batch of one process.
    mix : int
        About so many shards are read at a time in each lane: a tile moves by up to that many.
    lanes : int
        Streams that are read side by side, each of its own shards; batches come from them in turn. Where the number of
        processes, times that of the workers of each, divides it, each shard is read by one worker (but for those at
        the borders of lanes).
    balanced : bool
        Draw each class equally often, in an epoch as long as the data.
    """

    batch_size: int = 64
    mix: int = 8
    lanes: int = 16
    balanced: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "mix", "lanes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")


def epoch_order(
    shard: IntArray, code: IntArray, seed: int, epoch: int, options: OrderOptions = OrderOptions()
) -> IntArray:
    """Return the places of an epoch's tiles in the order in which they are visited.

    Parameters
    ----------
    shard : ndarray of int (n,)
        The shard of each tile; tiles of one shard must lie together.
    code : ndarray of int (n,)
        The class of each tile.
    seed, epoch : int
        They and the options determine the order: not the machine, nor how many processes share it.
    options : OrderOptions

    Returns
    -------
    ndarray of int64 (n,)
        Without `balanced`, each place once. Balanced, tiles of rare classes come again as often as is needed, as
        evenly as can be, and of common ones a part that changes with the epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    places = _balanced(code, rng) if options.balanced else np.arange(len(shard), dtype=np.int64)
    sequence, run = _shards_shuffled(places, shard, rng)
    borders = np.linspace(0, len(places), options.lanes + 1).astype(np.int64)
    for start, stop in pairwise(borders):
        key = run[start:stop] + options.mix * rng.random(stop - start, np.float32)
        sequence[start:stop] = sequence[start:stop][np.argsort(key, kind="stable")]
    return _in_turn(sequence, borders, options.batch_size, rng)


def _balanced(code: IntArray, rng: np.random.Generator) -> IntArray:
    """Places in ascending order, each as often as it is drawn."""
    count = np.bincount(code)
    present = np.flatnonzero(count)
    wanted = np.full(len(present), len(code) // len(present))
    wanted[: len(code) % len(present)] += 1
    times = np.zeros(len(code), np.int64)
    for which, total in zip(present, wanted, strict=True):
        here = np.flatnonzero(code == which)
        times[here] = total // len(here)
        times[rng.choice(here, total % len(here), replace=False)] += 1
    return np.repeat(np.arange(len(code)), times)


def _shards_shuffled(places: IntArray, shard: IntArray, rng: np.random.Generator) -> tuple[IntArray, NDArray[np.int32]]:
    """Put whole shards in a random order; the places, and how many shards come before each."""
    of = shard[places]
    starts = np.flatnonzero(np.concatenate([[True], of[1:] != of[:-1]])) if len(of) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(of)))
    chosen = rng.permutation(len(starts))
    ends = np.cumsum(lengths[chosen])
    moved = np.repeat(starts[chosen] - (ends - lengths[chosen]), lengths[chosen])
    run = np.repeat(np.arange(len(starts), dtype=np.int32), lengths[chosen])
    return places[np.arange(len(of)) + moved], run


def _in_turn(sequence: IntArray, borders: IntArray, batch_size: int, rng: np.random.Generator) -> IntArray:
    """Take batches from the lanes in turn; what is left of each comes at the end."""
    full = int(np.diff(borders).min()) // batch_size * batch_size
    lanes = [sequence[start : start + full].reshape(-1, batch_size) for start in borders[:-1]]
    rest = [sequence[a + full : b] for a, b in pairwise(borders)]
    return np.concatenate([np.stack(lanes, axis=1).reshape(-1), rng.permutation(np.concatenate(rest))])
