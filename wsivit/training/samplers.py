"""In which order tiles come to a training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from wsivit.data import OrderOptions, Samples, epoch_order, shards_of


class ShardSampler(Sampler[int]):
    """Visits the tiles of indexed stores shard by shard, shuffled; see `wsivit.data.epoch_order`.

    Parameters
    ----------
    samples : Samples
        In the order of their index.
    seed : int
    options : OrderOptions
    """

    def __init__(self, samples: Samples, seed: int, options: OrderOptions) -> None:
        self.shard, self.code = shards_of(samples), samples.code
        self.seed, self.options, self.epoch = seed, options, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, so that a resumed training visits what an uninterrupted one would."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shard)

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.shard, self.code, self.seed, self.epoch, self.options)
        yield from map(int, order)


class BalancedSampler(Sampler[int]):
    """Draws each class as often as the others, with replacement; an epoch is as long as the data.

    Parameters
    ----------
    codes : ndarray of int (n,)
    seed : int
    """

    def __init__(self, codes: NDArray[np.int64], seed: int) -> None:
        self.weights = torch.from_numpy(1 / np.bincount(codes)[codes])
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, so that a resumed training draws what an uninterrupted one would."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()
