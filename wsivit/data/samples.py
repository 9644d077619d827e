"""Labelled pictures from any number of sources, as columns; no pixel is read until it is asked for. No torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import StoreError, StoreMismatchError, UsageError
from wsivit.store import TileStore

IntArray = NDArray[np.int64]
PathLike = str | os.PathLike[str]

MPP_TOLERANCE = 0.04
"""Two stores are of one scale within this fraction: each may be 2 % off what was asked for."""


class Source(Protocol):
    """Where pictures come from: one slide's store, one image folder.

    Attributes
    ----------
    id : str
        Name of the slide or folder.
    patient, site : str
        What must not be on both sides of a split; the id where nothing is known.
    fingerprint : str
        Of the content, not the name.
    mpp : float or None
        Microns per pixel of the pictures.
    size : int
        Side of the pictures, in pixels.
    """

    id: str
    patient: str
    site: str
    fingerprint: str
    mpp: float | None
    size: int

    def read(self, indices: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read pictures, uint8 (k, size, size, 3)."""

    def items(self, indices: IntArray) -> list[str]:
        """Name pictures so that they are found again in another run."""


class StoreSource:
    """The tiles of one store as a source.

    Parameters
    ----------
    path : path
        A tile store.
    patient, site : str, optional
        Default to the slide's id and the empty string.
    """

    def __init__(self, path: PathLike, patient: str = "", site: str = "") -> None:
        self.store = TileStore(path)
        parameters = self.store.parameters
        self.id = parameters.slide_id
        self.patient = patient or self.id
        self.site = site
        self.fingerprint = parameters.slide_fingerprint
        self.mpp: float | None = float(np.sqrt(parameters.mpp[0] * parameters.mpp[1]))
        self.grid = parameters.grid
        self.size = self.grid.tile_size

    def read(self, indices: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read tiles, uint8 (k, size, size, 3)."""
        return self.store.read(indices, threads=threads)

    def items(self, indices: IntArray) -> list[str]:
        """Name tiles by their place in the grid, ``col/row``, which outlives a change of the mask."""
        return [f"{c}/{r}" for c, r in zip(self.store.col[indices], self.store.row[indices], strict=True)]

    def boxes(self, indices: IntArray) -> NDArray[np.float64]:
        """Extents of tiles (k, 4) in level-0 pixels."""
        return self.grid.boxes0(self.store.col[indices], self.store.row[indices])


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled pictures.

    Attributes
    ----------
    sources : tuple of Source
    source : ndarray of int64 (n,)
        Which source each picture is from.
    index : ndarray of int64 (n,)
        Its place there.
    code : ndarray of int64 (n,)
        Its class, as a place in `classes`.
    classes : tuple of str
    label : str
        What the classes are a value of.
    """

    sources: tuple[Source, ...]
    source: IntArray
    index: IntArray
    code: IntArray
    classes: tuple[str, ...]
    label: str = field(default="label")

    def __len__(self) -> int:
        return len(self.code)

    def take(self, chosen: NDArray[Any]) -> Self:
        """Return some of the samples, by index or mask."""
        return replace(self, source=self.source[chosen], index=self.index[chosen], code=self.code[chosen])

    def counts(self) -> dict[str, int]:
        """How many pictures there are of each class."""
        found = np.bincount(self.code, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, found, strict=True)}

    def per_source(self, values: Sequence[str]) -> NDArray[np.str_]:
        """Spread one value per source over the pictures; (n,)."""
        return np.asarray(values, np.str_)[self.source]

    @property
    def patients(self) -> NDArray[np.str_]:
        """The patient each picture is from; (n,)."""
        return self.per_source([source.patient for source in self.sources])

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return self.sources[0].size

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of the pictures: the mean of the sources'; None where nothing is known."""
        known = [source.mpp for source in self.sources if source.mpp is not None]
        return float(np.mean(known)) if known else None

    def read(self, chosen: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read pictures by their place in this table, uint8 (k, size, size, 3): one read per source."""
        chosen = np.asarray(chosen, np.int64)
        pixels = np.empty((len(chosen), self.size, self.size, 3), np.uint8)
        for number in np.unique(self.source[chosen]):
            here = np.flatnonzero(self.source[chosen] == number)
            pixels[here] = self.sources[number].read(self.index[chosen[here]], threads)
        return pixels

    def items(self) -> list[str]:
        """Name each picture within its source."""
        names = np.empty(len(self), object)
        for number, source in enumerate(self.sources):
            here = np.flatnonzero(self.source == number)
            names[here] = source.items(self.index[here])
        return list(names)


def samples_from_stores(stores: Sequence[PathLike | StoreSource], label: str, *, min_classes: int = 2) -> Samples:
    """Collect the labelled, readable tiles of stores.

    Parameters
    ----------
    stores : sequence of path or StoreSource
    label : str
        A label column that each store has, e.g. ``region``.
    min_classes : int
        How many classes must occur: two to learn, one to measure.

    Raises
    ------
    UsageError
        There is no store, a store has no such label, no tile has one, or there are too few classes.
    StoreMismatchError
        The stores differ in scale or tile size.
    """
    if not stores:
        raise UsageError("no tile store was given")
    sources = tuple(s if isinstance(s, StoreSource) else StoreSource(s) for s in stores)
    require_one_scale(sources)
    classes = tuple(sorted({name for source in sources for name in _column(source, label).classes}))
    parts = [_labelled(source, label, classes) for source in sources]
    number = np.concatenate([np.full(len(index), i, np.int64) for i, (index, _) in enumerate(parts)])
    index, code = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    samples = Samples(sources, number, index, code, classes, label)
    return _with_present_classes(samples, min_classes)


def require_one_scale(sources: Sequence[Source]) -> None:
    """Refuse sources of different scale or tile size.

    Raises
    ------
    StoreMismatchError
        Naming the first that differs from the first of all.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.size != first.size:
            raise StoreMismatchError(
                f"{other.id} has tiles of {other.size} px, {first.id} of {first.size} px: tile all slides alike"
            )
        if not same_scale(first.mpp, other.mpp):
            raise StoreMismatchError(
                f"{other.id} is at {other.mpp:.4g} microns per pixel, {first.id} at {first.mpp:.4g}: "
                "tile all slides at one scale"
            )


def same_scale(one: float | None, other: float | None) -> bool:
    """Whether two scales are the same within what tiling itself allows; an unknown scale equals any other."""
    return one is None or other is None or abs(one / other - 1) <= MPP_TOLERANCE


def _column(source: StoreSource, label: str) -> Any:
    names = source.store.labels
    if label not in names:
        known = f"it has {', '.join(map(repr, names))}" if names else "it has no labels at all"
        raise UsageError(f"{source.store.url}: no label {label!r}; {known}; tile it with --annotations to make one")
    return source.store.label(label)


def _labelled(source: StoreSource, label: str, classes: tuple[str, ...]) -> tuple[IntArray, IntArray]:
    """Return index and code of the tiles that have a label and can be read."""
    column = _column(source, label)
    rename = np.array([classes.index(name) for name in column.classes], np.int64)
    readable = np.asarray(source.store.readable, np.int64)
    if not len(source.store):
        raise StoreError(f"{source.store.url}: the store holds no tiles")
    index = readable[column.codes[readable] >= 0]
    return index, rename[column.codes[index]] if len(index) else index


def _with_present_classes(samples: Samples, min_classes: int) -> Samples:
    """Drop classes without a picture; refuse what nothing can be learned from."""
    present = [i for i, n in enumerate(samples.counts().values()) if n]
    names = ", ".join(source.id for source in samples.sources)
    if not present:
        raise UsageError(f"no tile of {names} has a value of the label {samples.label!r}")
    if len(present) < min_classes:
        raise UsageError(
            f"all {len(samples)} labelled tiles of {names} are {samples.classes[present[0]]!r}: "
            "a classifier needs two classes"
        )
    return replace(
        samples,
        code=np.searchsorted(present, samples.code).astype(np.int64),
        classes=tuple(samples.classes[i] for i in present),
    )
