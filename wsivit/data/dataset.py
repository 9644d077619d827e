"""The torch dataset over samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch.utils.data import Dataset, get_worker_info

from wsivit.data.samples import Samples, samples_from_stores


class Example(TypedDict):
    """One picture, uint8 (3, size, size), and its class."""

    pixel_values: torch.Tensor
    labels: int


class TileDataset(Dataset[Example]):
    """Labelled tiles for a ``DataLoader``: unnormalised uint8 pixels and class numbers.

    A whole batch is read at once (``__getitems__``), in threads that decode without the GIL, so shuffling costs
    nothing extra. Normalise and augment on the device, in batches: see :mod:`wsivit.data.augment`.

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

    @classmethod
    def from_stores(cls, stores: Sequence[str | os.PathLike[str]], label: str) -> TileDataset:
        """Collect the labelled, readable tiles of stores; see :func:`wsivit.data.samples.samples_from_stores`."""
        return cls(samples_from_stores(stores, label))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Example:
        return self.__getitems__([i])[0]

    def __getitems__(self, chosen: list[int]) -> list[Example]:
        threads = 1 if get_worker_info() else None  # workers are the threads, where there are any
        pixels = torch.from_numpy(self.samples.read(chosen, threads)).permute(0, 3, 1, 2)
        codes = self.samples.code[chosen].tolist()
        return [Example(pixel_values=p, labels=code) for p, code in zip(pixels.unbind(), codes, strict=True)]
