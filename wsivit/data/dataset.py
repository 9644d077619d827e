"""The torch dataset over samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from wsivit.data.image_sources import MAX_DAMAGED
from wsivit.data.labelled_tiles import Samples, samples_from_stores
from wsivit.errors import LimitError


class Example(TypedDict):
    """One picture, uint8 (3, size, size), and its class."""

    pixel_values: torch.Tensor
    labels: int


class Examples(list[Example]):
    """Pictures that were read together: views into one block, which :func:`collate` takes as it is.

    Parameters
    ----------
    pixels : Tensor of uint8 (n, 3, size, size)
    codes : list of int (n,)
    """

    def __init__(self, pixels: torch.Tensor, codes: list[int]) -> None:
        super().__init__(Example(pixel_values=p, labels=code) for p, code in zip(pixels.unbind(), codes, strict=True))
        self.block = {"pixel_values": pixels, "labels": torch.tensor(codes)}


class TileDataset(Dataset[Example]):
    """Labelled tiles for a ``DataLoader``: unnormalised uint8 pixels and class numbers.

    A whole batch is read at once (``__getitems__``), in threads that decode without the GIL, so shuffling costs
    nothing extra; with ``collate_fn=collate`` it is not copied again. Pictures that turn out unreadable are left out
    and named in the log; more than one in a hundred are a LimitError. Normalise and augment on the device, in batches:
    see :mod:`wsivit.data.augment`.

    Parameters
    ----------
    samples : Samples

    Attributes
    ----------
    classes : tuple of str
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.classes = samples.classes
        self._lost: set[int] = set()

    @classmethod
    def from_stores(cls, stores: Sequence[str | os.PathLike[str]], label: str) -> TileDataset:
        """Collect the labelled, readable tiles of stores; see `samples_from_stores`."""
        return cls(samples_from_stores(stores, label))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Example:
        return self.__getitems__([i])[0]

    def __getitems__(self, chosen: list[int]) -> Examples:
        threads = 1 if get_worker_info() else None  # workers are the threads, where there are any
        good, read = self.samples.read_skipping_unreadable(chosen, threads)
        if len(good) < len(chosen):
            self._lose(set(chosen) - set(good.tolist()))
        # Channels come last in memory, as the decoder leaves them and as convolutions like them.
        return Examples(torch.from_numpy(read).permute(0, 3, 1, 2), self.samples.code[good].tolist())

    def _lose(self, unreadable: set[int]) -> None:
        self._lost |= unreadable
        if len(self._lost) > max(1, MAX_DAMAGED * len(self)):
            raise LimitError(
                f"{len(self._lost)} of the pictures turned out unreadable, more than {MAX_DAMAGED:.0%} of {len(self)}: "
                f"{', '.join(self.samples.take(np.array(sorted(self._lost)[:5])).items())}; repair or leave them out"
            )


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Make a batch of examples: those that were read together are one already.

    Raises
    ------
    LimitError
        In a process that reads for another: the shared memory in which it hands over the batch is full.
    """
    batch: dict[str, torch.Tensor] = examples.block if isinstance(examples, Examples) else default_collate(examples)
    if get_worker_info() is not None:
        _share(batch)
    return batch


def _share(batch: dict[str, torch.Tensor]) -> None:
    # Left to the queue, this happens in a thread of its own whose error is printed and the batch lost: whoever waits
    # for it waits for ever.
    try:
        for values in batch.values():
            values.share_memory_()
    except (RuntimeError, OSError) as error:
        raise LimitError(
            f"a process that reads tiles found the shared memory (/dev/shm) full ({str(error).splitlines()[0]}): "
            "give it more (docker run --shm-size=2g), or read in this process (--workers 0)"
        ) from error
