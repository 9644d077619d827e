"""The features of each slide's tiles, checked and ready to be drawn from, in memory or in a memory-mapped pack."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.data import same_scale
from wsivit.errors import StoreError, StoreMismatchError, UsageError
from wsivit.io import progress_bar
from wsivit.mil.pack import PackWriter
from wsivit.mil.patients import LeftOut, Patient, PatientSlide
from wsivit.models import find_encoder
from wsivit.store import TileStore

Tiles: TypeAlias = NDArray[np.float16]
"""Features of a slide's tiles, (n, d)."""
Vectors: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class EncoderBlock:
    """Which vectors a run is for: everything that makes the same tile another vector.

    Attributes
    ----------
    name : str
        Of the features in a store.
    model : str
        What the encoder was opened by.
    fingerprint, pooling : str
    mpp : float
        Scale of the tiles, microns per pixel.
    tile_size : int
    dim : int
        Length of the vectors.
    """

    name: str
    model: str
    fingerprint: str
    pooling: str
    mpp: float
    tile_size: int
    dim: int

    @classmethod
    def of_store(cls, store: TileStore, name: str, attrs: Mapping[str, Any], dim: int) -> Self:
        """Describe the features of a store."""
        mpp = float(np.sqrt(np.prod(store.parameters.mpp)))
        fingerprint, model = str(attrs.get("model_fingerprint", "")), str(attrs.get("model", name))
        return cls(name, model, fingerprint, str(attrs.get("pooling", "")), mpp, store.grid.tile_size, dim)

    def differences(self, other: EncoderBlock) -> list[str]:
        """Name what makes the vectors of another block other ones."""
        texts = []
        for name in ("fingerprint", "pooling", "dim", "tile_size"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                texts.append(f"{name.replace('_', ' ')} {theirs or 'unknown'} instead of {ours or 'unknown'}")
        if not same_scale(self.mpp, other.mpp):
            texts.append(f"scale {other.mpp:.4g} instead of {self.mpp:.4g} microns per pixel")
        return texts

    def require(self, other: EncoderBlock, where: str) -> None:
        """Raise StoreMismatchError where the vectors of another block are other ones."""
        if differences := self.differences(other):
            raise StoreMismatchError(
                f"{where}: features {other.name!r} are not those that are needed: {'; '.join(differences)}; extract "
                f"them again: wsivit features --encoder {self.name} --force"
            )


@dataclass(frozen=True)
class SlideFeatures:
    """The features of one slide.

    Attributes
    ----------
    tiles : float16 (k, d)
        Of the tiles that have features, in the order of the store.
    places : int64 (k,)
        Which tiles these are.
    encoder : EncoderBlock
    fingerprint : str
        Of the slide's content.
    """

    tiles: Tiles
    places: NDArray[np.int64]
    encoder: EncoderBlock
    fingerprint: str


def feature_name(encoder: str) -> str:
    """Return the name of an encoder's features in stores, however the encoder is spelled."""
    known = find_encoder(encoder)
    return encoder if known is None else known.name


def read_slide(store: TileStore, encoder: str) -> SlideFeatures:
    """Read the features of a store; tiles without numbers are left out.

    Raises
    ------
    UsageError
        The store has no features of that name, or they are of tokens.
    """
    name = encoder if encoder in store.encoders else feature_name(encoder)
    if name not in store.encoders:
        existing = ", ".join(store.encoders) or "none"
        raise UsageError(
            f"{store.url}: has no features {name!r} (it has {existing}); run: wsivit features --encoder {encoder}"
        )
    features = store.features(name)
    if features.values.ndim != 2:
        raise UsageError(f"{store.url}: features {name!r} are of tokens, a slide-level model takes a vector per tile")
    block = EncoderBlock.of_store(store, name, features.attrs, features.values.shape[1])
    # In blocks: the test for finite numbers of a large slide would take as much memory again.
    finite = np.concatenate(
        [np.isfinite(features.values[start : start + 4096]).all(axis=1) for start in range(0, len(store), 4096)]
        or [np.zeros(0, bool)]
    )
    tiles = features.values if finite.all() else features.values[finite]
    return SlideFeatures(tiles, np.flatnonzero(finite), block, store.parameters.slide_fingerprint)


@dataclass(frozen=True)
class PatientBags:
    """The bags of many patients: one bag per slide.

    Attributes
    ----------
    encoder : EncoderBlock
    bags : tuple of tuple of float16 (n, d)
        Of each patient, of each of its slides: its tiles in a random order that is the slide's own, so that any window
        of them is a random sample. Empty where only means were asked for.
    means : float32 (patients, d)
        Mean over a patient's slides of the mean over their tiles.
    fingerprints : tuple of tuple of str
        Of each patient, of the content of each slide.
    patients : tuple of Patient
        Those that have a bag.
    left_out : tuple of LeftOut
        Slides without any tile to learn from.
    tiles : int
        Of all bags together.
    """

    encoder: EncoderBlock
    bags: tuple[tuple[Tiles, ...], ...]
    means: Vectors
    fingerprints: tuple[tuple[str, ...], ...]
    patients: tuple[Patient, ...]
    left_out: tuple[LeftOut, ...]
    tiles: int

    @property
    def slides(self) -> int:
        """How many slides there are."""
        return sum(map(len, self.fingerprints))

    def take(self, places: Sequence[int]) -> PatientBags:
        """Return the bags of some of the patients."""
        return replace(
            self,
            bags=tuple(self.bags[place] for place in places) if self.bags else (),
            means=self.means[list(places)],
            fingerprints=tuple(self.fingerprints[place] for place in places),
            patients=tuple(self.patients[place] for place in places),
        )


def read_bags(
    patients: Sequence[Patient],
    encoder: str,
    *,
    keep_tiles: bool,
    pack: Path | None = None,
    memory_gb: float = 1.0,
    progress: bool = False,
) -> PatientBags:
    """Read the features of many patients.

    Parameters
    ----------
    patients : sequence of Patient
    encoder : str
        Name of the features.
    keep_tiles : bool
        Whether the vectors of tiles are needed, or their mean only.
    pack : Path, optional
        Folder for a pack of all tiles, which is written where they would take more memory than allowed.
    memory_gb : float
        How much memory the tiles may take; more are read from the pack.
    progress : bool
        Show a progress bar.

    Raises
    ------
    UsageError
        A slide has no such features, one content is two patients', or the features are constant.
    StoreMismatchError
        A slide's features are of other weights, another input, scale or tile size.
    """
    reader = _Reader(encoder)
    source = _Memory() if keep_tiles else None
    slides = [(patient, slide) for patient in patients for slide in patient.slides]
    packing: PackWriter | None = None
    with progress_bar(len(slides), "reading features", "slide", show=progress) as advance:
        for patient, slide in slides:
            read = reader.read(patient, slide)
            advance(1)
            if read is None or source is None:
                continue
            shuffled = read.tiles[_order(read)]
            if packing is None and pack is not None and source.bytes + shuffled.nbytes > memory_gb * 1e9:
                packing = PackWriter(pack, read.encoder.dim)
                for tiles in source.drain():
                    packing.add(tiles)
            (packing or source).add(shuffled)
    views = iter(source.arrays if packing is None else packing.finish()) if source is not None else None
    return reader.finish(patients, views)


def _order(slide: SlideFeatures) -> NDArray[np.int64]:
    """The order of a slide's tiles in its bag: always the same, and known to nobody who chose the tiles."""
    seed = hashlib.sha256(f"{slide.fingerprint} {len(slide.tiles)}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "big")).permutation(len(slide.tiles))


class _Memory:
    """Bags in memory."""

    def __init__(self) -> None:
        self.arrays: list[Tiles] = []
        self.bytes = 0

    def add(self, tiles: Tiles) -> None:
        self.arrays.append(tiles)
        self.bytes += tiles.nbytes

    def drain(self) -> Iterator[Tiles]:
        """Yield each array and forget it."""
        while self.arrays:
            yield self.arrays.pop(0)
        self.bytes = 0


class _Reader:
    """Reads slides one after the other and checks that they belong together."""

    def __init__(self, encoder: str) -> None:
        self._encoder = encoder
        self.block: EncoderBlock | None = None
        self._first = ""
        self._content: dict[str, tuple[str, str]] = {}
        self._means: dict[tuple[str, str], Vectors] = {}
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._left_out: list[LeftOut] = []
        self._tiles = 0

    def read(self, patient: Patient, slide: PatientSlide) -> SlideFeatures | None:
        """Read a slide; None where it takes no part."""
        try:
            store = TileStore(slide.store)
        except StoreError as error:
            raise StoreError(f"slide {slide.id} of patient {patient.id}: {error}") from None
        read = read_slide(store, self._encoder)
        if self.block is None:
            self.block, self._first = read.encoder, slide.id
        else:
            self.block.require(read.encoder, f"{store.url} (compared with slide {self._first})")
        twin = self._content.setdefault(read.fingerprint, (patient.id, slide.id))
        if twin != (patient.id, slide.id):
            if twin[0] != patient.id:
                raise UsageError(
                    f"slides {twin[1]} of patient {twin[0]} and {slide.id} of patient {patient.id} have the same "
                    "content: one patient would be on both sides of a fold; correct the table"
                )
            self._left_out.append(LeftOut("slide", slide.id, f"the same content as {twin[1]}"))
            return None
        if not len(read.tiles):
            self._left_out.append(LeftOut("slide", slide.id, "no tile of it has features"))
            return None
        key = patient.id, slide.id
        self._means[key] = read.tiles.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._fingerprints[key] = read.fingerprint
        self._tiles += len(read.tiles)
        return read

    def finish(self, patients: Sequence[Patient], views: Iterator[Tiles] | None) -> PatientBags:
        """Put the slides of each patient together."""
        if self.block is None or not self._means:
            raise UsageError(f"no slide has a tile with features {self._encoder!r}: there is nothing to learn from")
        kept, bags, left_out = [], [], list(self._left_out)
        for patient in patients:
            slides = tuple(slide for slide in patient.slides if (patient.id, slide.id) in self._means)
            if slides:
                kept.append(replace(patient, slides=slides))
                bags.append(tuple(next(views) for _ in slides) if views is not None else ())
            else:
                left_out.append(LeftOut("patient", patient.id, "none of its slides has a tile with features"))
        every = np.stack(list(self._means.values()))
        if len(every) > 1 and not np.ptp(every, axis=0).any():
            raise UsageError(f"features {self.block.name!r} are the same in every slide: the encoder gives nothing")
        means = np.stack([np.mean([self._means[p.id, s.id] for s in p.slides], axis=0, dtype=np.float32) for p in kept])
        fingerprints = tuple(tuple(self._fingerprints[p.id, s.id] for s in p.slides) for p in kept)
        every_bag = tuple(bags) if views is not None else ()
        return PatientBags(self.block, every_bag, means, fingerprints, tuple(kept), tuple(left_out), self._tiles)


def window(tiles: Tiles, count: int, epoch: int) -> Tiles:
    """Return the tiles of one epoch: `count` in a row, so that some epochs draw every tile once before any twice."""
    n = len(tiles)
    if n <= count:
        return tiles
    start = epoch * count % n
    if start + count <= n:
        return tiles[start : start + count]
    return np.concatenate([tiles[start:], tiles[: start + count - n]])


def chunks(tiles: Tiles, size: int = 16384) -> Callable[[], Iterator[Tiles]]:
    """Return a function that yields the tiles in parts, from the start each time it is called."""

    def parts() -> Iterator[Tiles]:
        for part in range(math.ceil(len(tiles) / size)):
            yield tiles[part * size : (part + 1) * size]

    return parts
