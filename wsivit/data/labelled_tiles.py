"""Labelled pictures from any number of sources, as columns; pixels are read on demand. No torch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.data.tile_sources import PathLike, Source, StoreSource
from wsivit.errors import StoreError, StoreMismatchError, UnreadableTilesError, UsageError
from wsivit.tiling import similar_names

IntArray = NDArray[np.int64]

_log = logging.getLogger(__name__)
_NAMED_AT_ONCE = 1 << 16

MPP_TOLERANCE = 0.04
"""Two stores are of one scale within this fraction: each may be 2 % off what was asked for."""


class NoLabelError(UsageError):
    """A slide has no labels of the name asked for."""


class EmptyStoreError(StoreError):
    """A store has no tiles."""


@dataclass(frozen=True, eq=False)
class GroupIndex:
    """The group of each picture, as numbers: there may be millions of pictures.

    Attributes
    ----------
    code : ndarray of int64 (n,)
        From ``len(names)`` on, a picture is on its own.
    names : tuple of str
        Of the groups that have one.
    """

    code: IntArray
    names: tuple[str, ...]

    def count(self, chosen: NDArray[Any] | slice = slice(None)) -> int:
        """How many groups there are among some of the pictures."""
        return len(np.unique(self.code[chosen]))


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
    side : ndarray of int8 (n,), optional
        Side of a split that came with the data: 0 train, 1 validation, 2 test, -1 left out.
    vanished : tuple of str
        Classes that the data name but have no picture of; they are not in `classes`.
    """

    sources: tuple[Source, ...]
    source: IntArray
    index: IntArray
    code: IntArray
    classes: tuple[str, ...]
    label: str = "label"
    side: NDArray[np.int8] | None = None
    vanished: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.code)

    def take(self, chosen: NDArray[Any]) -> Self:
        """Return some of the samples, by index or mask."""
        side = None if self.side is None else self.side[chosen]
        return replace(self, source=self.source[chosen], index=self.index[chosen], code=self.code[chosen], side=side)

    def counts(self) -> dict[str, int]:
        """How many pictures there are of each class."""
        count = np.bincount(self.code, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, count, strict=True)}

    def frequency(self) -> NDArray[np.float64]:
        """Share of each class among the pictures; (classes,)."""
        return np.bincount(self.code, minlength=len(self.classes)) / max(1, len(self))

    def count_per_source(self, values: IntArray, kinds: int) -> IntArray:
        """How many pictures of each source have each of some values, 0 to `kinds`; (sources, kinds)."""
        pairs = np.bincount(self.source * kinds + values, minlength=len(self.sources) * kinds)
        return pairs.reshape(len(self.sources), kinds)

    @property
    def patients(self) -> GroupIndex:
        """The patient each picture is from; where pictures have none, each is one of its own."""
        return self.grouped([source.patient for source in self.sources])

    @property
    def slides(self) -> GroupIndex:
        """The slide each picture is from, by content; where pictures are not of slides, each on its own."""
        return self.grouped([source.fingerprint if source.patient else "" for source in self.sources])

    def grouped(self, values: Sequence[str]) -> GroupIndex:
        """Group pictures by a value of their sources; those without one are each on their own."""
        names, place = np.unique(np.asarray(values, np.str_), return_inverse=True)
        code = place.astype(np.int64)[self.source]
        alone = np.flatnonzero((np.asarray(values, np.str_) == "")[self.source])
        code[alone] = len(names) + np.arange(len(alone))
        return GroupIndex(code, tuple(names.tolist()))

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return self.sources[0].size

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of the pictures: what all were tiled for, else the mean; None where nothing is known."""
        known = [source.mpp for source in self.sources if source.mpp is not None]
        asked = {source.requested_mpp for source in self.sources if isinstance(source, StoreSource)}
        nominal = asked.pop() if len(asked) == 1 else None
        if nominal is not None and all(same_scale(nominal, mpp) for mpp in known):
            return nominal
        return float(np.mean(known)) if known else None

    def read(self, chosen: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read pictures by their place in this table, uint8 (k, size, size, 3): one read per source."""
        chosen = np.asarray(chosen, np.int64)
        pixels = np.empty((len(chosen), self.size, self.size, 3), np.uint8)
        for number in np.unique(self.source[chosen]):
            places = np.flatnonzero(self.source[chosen] == number)
            source, indices = self.sources[number], self.index[chosen[places]]
            # Pictures that lie together are read into place; others cost a copy.
            if isinstance(source, StoreSource) and places[-1] - places[0] + 1 == len(places):
                source.read(indices, threads, pixels[places[0] : places[-1] + 1])
            else:
                pixels[places] = source.read(indices, threads)
        return pixels

    def read_skipping_unreadable(
        self, chosen: ArrayLike, threads: int | None = None
    ) -> tuple[IntArray, NDArray[np.uint8]]:
        """Read pictures but those that turn out unreadable, source by source; also return which were read.

        Those of one source come together, which saves a copy.
        """
        chosen = np.asarray(chosen, np.int64)
        chosen = chosen[np.argsort(self.source[chosen], kind="stable")]
        return read_skipping_unreadable(lambda places: self.read(places, threads), chosen, self.size)

    @property
    def resizable(self) -> bool:
        """Whether these are pictures of no scale, which are brought to any size as they are read."""
        return not any(isinstance(source, StoreSource) or source.mpp is not None for source in self.sources)

    def resized(self, side: int) -> Self:
        """Return the same pictures at another size; they must be `resizable`."""
        sources = tuple(map(copy, self.sources))
        for source in sources:
            source.size = side
        return replace(self, sources=sources)

    def items(self) -> Iterator[str]:
        """Name each picture within its source, one after the other: all names at once would take more than the rest."""
        for start in range(0, len(self), _NAMED_AT_ONCE):
            part = slice(start, start + _NAMED_AT_ONCE)
            source, index = self.source[part], self.index[part]
            names = np.empty(len(source), object)
            for number in np.unique(source):
                places = np.flatnonzero(source == number)
                names[places] = self.sources[number].items(index[places])
            yield from names


def read_skipping_unreadable(
    read: Callable[[IntArray], NDArray[np.uint8]], indices: IntArray, size: int
) -> tuple[IntArray, NDArray[np.uint8]]:
    """Read pictures together; where one turns out unreadable, one by one, leaving out and logging those that are.

    Parameters
    ----------
    read : callable
        Returns the pictures of indices, uint8 (k, size, size, 3); raises UnreadableTilesError.
    indices : ndarray of int64 (n,)
    size : int

    Returns
    -------
    indices, pixels
        Of the pictures that were read.
    """
    try:
        return indices, read(indices)
    except UnreadableTilesError as error:
        if len(indices) == 1:
            _log.warning("left out: %s", error)
            return indices[:0], np.empty((0, size, size, 3), np.uint8)
    parts = [read_skipping_unreadable(read, indices[i : i + 1], size) for i in range(len(indices))]
    return np.concatenate([i for i, _ in parts]), np.concatenate([pixels for _, pixels in parts])


@dataclass(frozen=True, eq=False)
class LabelledTiles:
    """The labelled pictures of one source, before sources are combined.

    Attributes
    ----------
    source : Source
    index : ndarray of int64 (k,)
    code : ndarray of int64 (k,)
        Place in `classes`.
    classes : tuple of str
    side : ndarray of int8 (k,), optional
        Side of a split that came with the data.
    label : str
        What the classes are a value of.
    """

    source: Source
    index: IntArray
    code: IntArray
    classes: tuple[str, ...]
    side: NDArray[np.int8] | None = None
    label: str = "class"


def combine(parts: Sequence[LabelledTiles], label: str, *, min_classes: int = 2) -> Samples:
    """Combine sources; classes are united by name, and those without a picture left out.

    Raises
    ------
    UsageError
        There is nothing, too few classes, or two sources of one name.
    StoreMismatchError
        The sources differ in scale or size.
    """
    sources = tuple(part.source for part in parts)
    # A split file could not tell two sources of one name apart.
    name, times = Counter(source.id for source in sources).most_common(1)[0]
    if times > 1:
        same = len({source.fingerprint for source in sources if source.id == name}) == 1
        raise UsageError(f"{name} was given {times} times" if same else f"{times} slides or folders are called {name}")
    require_one_scale(sources)
    sides = [part.side for part in parts if part.side is not None]
    if sides and len(sides) < len(parts):
        raise UsageError("some of the data come with a split and some without: give them all one")

    named = tuple(sorted({name for part in parts for name in part.classes}))
    for names in similar_names(named):
        _log.warning(
            "classes of %r differ only in case or spaces, and stay apart: %s", label, ", ".join(map(repr, names))
        )
    code = np.concatenate(
        [np.array([named.index(name) for name in part.classes], np.int64)[part.code] for part in parts]
    )
    count = np.bincount(code, minlength=len(named))
    present = np.flatnonzero(count)
    ids = ", ".join(source.id for source in sources[:5])
    if not len(present):
        raise UsageError(f"no tile of {ids} has a value of the label {label!r}")
    if len(present) < min_classes:
        raise UsageError(
            f"all {len(code)} labelled tiles of {ids} are {named[present[0]]!r}: a classifier needs two classes"
        )
    return Samples(
        sources,
        np.concatenate([np.full(len(part.index), i, np.int64) for i, part in enumerate(parts)]),
        np.concatenate([part.index for part in parts]),
        np.searchsorted(present, code).astype(np.int64),
        tuple(named[i] for i in present),
        label,
        np.concatenate(sides) if sides else None,
        vanished=tuple(name for name, n in zip(named, count, strict=True) if not n),
    )


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
    sources = [s if isinstance(s, StoreSource) else StoreSource(s) for s in stores]
    return combine([label_from_store(source, label) for source in sources], label, min_classes=min_classes)


def label_from_store(source: StoreSource, label: str) -> LabelledTiles:
    """Label the tiles of a store by one of its columns."""
    names = source.store.labels
    if label not in names:
        known = f"it has {', '.join(map(repr, names))}" if names else "it has no labels at all"
        raise NoLabelError(f"{source.store.url}: no label {label!r}; {known}; tile it with --annotations to make one")
    column = source.store.label(label)
    readable = readable_tiles(source)
    index = readable[column.codes[readable] >= 0]
    return LabelledTiles(source, index, column.codes[index].astype(np.int64), column.classes, label=label)


def readable_tiles(source: StoreSource) -> IntArray:
    """Return the tiles that can be read; StoreError for a store without any tile."""
    if not len(source.store):
        raise EmptyStoreError(f"{source.store.url}: the store holds no tiles")
    return np.asarray(source.store.readable, np.int64)


def require_one_scale(sources: Sequence[Source], *, selectable: bool = True) -> None:
    """Reject sources of different scale or tile size; where it is `selectable`, the advice is to select one.

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
                + ", or say which to take (--tile-size)" * selectable
            )
        if not same_scale(first.mpp, other.mpp):
            raise StoreMismatchError(
                f"{other.id} is at {other.mpp:.4g} microns per pixel, {first.id} at {first.mpp:.4g}: "
                "tile all slides at one scale" + ", or say which to take (--mpp)" * selectable
            )


def same_scale(one: float | None, other: float | None) -> bool:
    """Whether two scales are the same within what tiling itself allows; an unknown scale equals any other."""
    return one is None or other is None or abs(one / other - 1) <= MPP_TOLERANCE
