"""Which pictures train a model, which choose its epoch, and which measure it. Pure on arrays; no torch."""

from __future__ import annotations

import csv
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.data.labelled_tiles import Samples
from wsivit.data.tile_sources import StoreSource
from wsivit.errors import UsageError

Sides: TypeAlias = NDArray[np.int8]
By: TypeAlias = Literal["auto", "patient", "slide", "site", "region"]

TRAIN, TUNE, TEST, LEFT_OUT = 0, 1, 2, -1
_UNKNOWN = -2
SIDES = {TRAIN: "train", TUNE: "tune", TEST: "test", LEFT_OUT: "left out"}
SIDE_NAMES = {"train": TRAIN, "tune": TUNE, "val": TUNE, "valid": TUNE, "validation": TUNE, "dev": TUNE, "test": TEST}
"""Names of sides in tables, folders and files."""
TUNE_FRACTION = 0.2
"""Share of what is not held out that chooses epoch and temperature."""


_SMALLER: dict[str, tuple[By, ...]] = {
    "site": ("site", "patient", "slide", "region"),
    "patient": ("patient", "slide", "region"),
    "auto": ("patient", "slide", "region"),
    "slide": ("slide", "region"),
    "region": ("region",),
}
"""What the tune part keeps whole, by what the split does: the first of these of which there are enough."""


@dataclass(frozen=True, eq=False)
class Split:
    """The side of each picture.

    Attributes
    ----------
    side : ndarray of int8 (n,)
        0 train, 1 tune (chooses the epoch), 2 test (is reported), -1 left out (too near to another side).
    how : str
        How it was made, in words.
    by : str
        What was kept whole: ``patient``, ``slide``, ``site``, ``region``; or whose split it is: ``official``, ``file``.
    by_region : tuple of int
        Sides that are other regions of the slides trained on (of the patients, other slides), on purpose.
    warnings : tuple of str
        What had to be done otherwise than asked for.
    """

    side: Sides
    how: str
    by: str
    by_region: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    def of(self, side: int) -> NDArray[np.int64]:
        """Return the places of one side's pictures."""
        return np.flatnonzero(self.side == side)


def split_samples(
    samples: Samples,
    fraction: float = 0.2,
    *,
    by: By = "auto",
    seed: int = 0,
    gap: int = 1,
    fold: tuple[int, int] | None = None,
) -> Split:
    """Hold out a test part: complete patients where every class occurs in two of them, else regions of the slides.

    Parameters
    ----------
    samples : Samples
    fraction : float
        About how much to hold out, between 0 and 0.5.
    by : {"auto", "patient", "slide", "site", "region"}
        What is kept whole. Regions are square blocks of tiles.
    seed : int
    gap : int
        Between regions, tiles nearer than this many tile sides to a held-out tile are left out of training.
    fold : (int, int), optional
        Hold out part ``i`` (from 1) of ``k``, the parts being the same for every ``i``; `fraction` plays no part.

    Raises
    ------
    UsageError
        No split has every class on both sides.
    """
    if not 0 < fraction <= 0.5:
        raise UsageError(f"the held-out part must be more than 0 and at most 0.5, not {fraction}")
    if fold and not 1 <= fold[0] <= fold[1]:
        raise UsageError(f"there is no part {fold[0]} of {fold[1]}")
    if by == "auto":
        of_class = [samples.code == code for code in range(len(samples.classes))]
        by = "patient" if all(samples.patients.count(chosen) > 1 for chosen in of_class) else "region"
    parts = fold[1] if fold else max(2, round(1 / fraction))
    if by == "region":
        return _split_regions(samples, _Choice(parts, fraction, seed, fold), gap)
    if by == "site":  # slides of an unknown site count as of one
        groups = samples.grouped([f"site {source.site}" for source in samples.sources])
    else:
        groups = samples.patients if by == "patient" else samples.slides
    held = _Choice(parts, fraction, seed, fold).held_out(samples.code, groups.code)[0]
    if not _every_class_on_both_sides(samples, held, ~held):
        spread = [f"{name} in {groups.count(samples.code == code)}" for code, name in enumerate(samples.classes)]
        raise UsageError(
            f"no split by {by} has every class on both sides ({by}s per class: {', '.join(spread)}); "
            "add slides, or split by region"
        )
    side = np.where(held, TEST, TRAIN).astype(np.int8)
    return Split(side, f"by {by}: {groups.count(held)} of {groups.count()} held out{_part(fold)}", by)


def official_split(samples: Samples) -> Split:
    """Return the split that came with the data."""
    assert samples.side is not None
    return Split(samples.side.astype(np.int8), "the split that came with the data", "official")


def with_tune_part(samples: Samples, split: Split, *, by: By = "auto", seed: int = 0) -> Split:
    """Complete a split to three parts: one learns, one chooses (tune), and one that chose nothing is reported (test).

    A split that has a tune and a test part stays as it is. Of one with a single held-out part, whatever its name, that
    part is the test part, and a fifth of the training part becomes the tune part: complete units of what the split
    keeps whole; where there are too few of them, smaller ones, with a warning: patients, then slides, then regions.

    Parameters
    ----------
    samples : Samples
    split : Split
    by : {"auto", "patient", "slide", "site", "region"}
        What is kept whole where the split does not say.
    seed : int

    Raises
    ------
    UsageError
        Nothing is held out, or no tune part has every class.
    """
    side, by_region = split.side.copy(), split.by_region
    if not (side == TEST).any():
        side[side == TUNE] = TEST
        by_region = tuple(TEST for _ in by_region)
    if not (side == TEST).any():
        raise UsageError(f"{split.how}: nothing is held out to measure on")
    if (side == TUNE).any():
        return split
    unit = split.by if split.by in _SMALLER else by
    train = np.flatnonzero(side == TRAIN)
    learned = samples.take(train)
    chosen = None
    for smaller in _SMALLER[unit]:
        try:
            chosen = split_samples(learned, TUNE_FRACTION, by=smaller, seed=seed)
            break
        except UsageError as error:
            failure = error
    if chosen is None:
        raise UsageError(f"{split.how}: no part is left to choose the epoch on: {failure}")
    side[train] = np.where(chosen.side == TEST, TUNE, chosen.side)
    notes = split.warnings
    wanted = "patient" if unit == "auto" else unit
    if chosen.by != wanted:
        notes += (
            f"too few {wanted}s to set whole ones aside, with every class, that choose the epoch and the temperature: "
            f"other {chosen.by}s of {wanted}s that are trained on choose them; the test part shares no {wanted} with "
            "them and chose nothing",
        )
    by_region += (TUNE,) if chosen.by == "region" or chosen.by != wanted else ()
    return replace(split, side=side, how=f"{split.how}; tune part {chosen.how}", by_region=by_region, warnings=notes)


def write_split(path: str | os.PathLike[str], samples: Samples, split: Split) -> None:
    """Write a split as CSV: ``source,item,label,split``, one line per picture."""
    names = [source.id for source in samples.sources]
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "item", "label", "split"])
        for number, item, code, side in zip(samples.source, samples.items(), samples.code, split.side, strict=True):
            writer.writerow([names[number], item, samples.classes[code], SIDES[int(side)]])


def read_split(path: str | os.PathLike[str], samples: Samples, by: By = "auto") -> Split:
    """Read a split written by :func:`write_split` or by hand; a line with an empty item is for the whole source.

    Parameters
    ----------
    path : path
    samples : Samples
    by : {"auto", "patient", "slide", "site", "region"}
        What the file is meant to keep whole: with ``region``, a slide may be on both sides.

    Raises
    ------
    UsageError
        The file is no split, or does not say where a picture belongs.
    """
    codes = SIDE_NAMES | {SIDES[LEFT_OUT]: LEFT_OUT}
    of_source: dict[str, int] = {}
    of_item: dict[tuple[str, str], int] = {}
    try:
        with Path(path).open(newline="") as file:
            for line in csv.DictReader(file):
                if line.get("item"):
                    of_item[line["source"], line["item"]] = codes[line["split"]]
                else:
                    of_source[line["source"]] = codes[line["split"]]
    except (OSError, KeyError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: not a split: needs columns source, item, split ({', '.join(SIDES.values())}): {error}"
        ) from error
    names = [source.id for source in samples.sources]
    keys = ((names[number], item) for number, item in zip(samples.source, samples.items(), strict=True))
    sides = (of_item.get(key, of_source.get(key[0], _UNKNOWN)) for key in keys)
    side = np.fromiter(sides, np.int8, len(samples))
    missing = np.flatnonzero(side == _UNKNOWN)
    if len(missing):
        first = samples.take(missing[:1])
        raise UsageError(
            f"{path}: says nothing about {len(missing)} pictures, the first is {next(first.items())} of "
            f"{names[first.source[0]]}"
        )
    by_region = tuple(code for code in (TUNE, TEST) if by == "region" and (side == code).any())
    return Split(side, f"read from {Path(path).name}", "file", by_region)


@dataclass(frozen=True)
class _Choice:
    """Which of how many parts is held out: a named one, or the one nearest to a fraction of every class."""

    parts: int
    fraction: float
    seed: int
    fold: tuple[int, int] | None

    def held_out(self, code: NDArray[np.int64], groups: NDArray[np.generic]) -> list[NDArray[np.bool_]]:
        """Return the held-out part as a mask; with a fold those of all folds, the named one first."""
        from sklearn.model_selection import StratifiedGroupKFold

        # scikit-learn wants at least as many groups, and pictures of the commonest class, as parts.
        total = np.bincount(code)
        n = min(self.parts, len(np.unique(groups)), int(total.max()))
        if n < (self.fold[1] if self.fold else 2):
            return [np.zeros(len(code), bool)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # whether both sides have rare classes is checked after
            found = list(StratifiedGroupKFold(n, shuffle=True, random_state=self.seed).split(code, code, groups))
        masks = [np.isin(np.arange(len(code)), fold) for _, fold in found]
        if self.fold:
            first = self.fold[0] - 1
            return masks[first:] + masks[:first]

        def miss(mask: NDArray[np.bool_]) -> float:
            share = np.bincount(code[mask], minlength=len(total)) / total
            return float(np.abs(share - self.fraction).max())

        return [min(masks, key=miss)]


def _part(fold: tuple[int, int] | None) -> str:
    return f", part {fold[0]} of {fold[1]}" if fold else ""


def _every_class_on_both_sides(samples: Samples, *sides: NDArray[np.bool_]) -> bool:
    return all(len(np.unique(samples.code[side])) == len(samples.classes) for side in sides)


def _split_regions(samples: Samples, choice: _Choice, gap: int) -> Split:
    """Hold out square blocks, as large as still gives every class on both sides; about 20 blocks to start with."""
    cells = np.empty((len(samples), 2), np.int64)  # column and row of each tile
    for number, source in enumerate(samples.sources):
        if not isinstance(source, StoreSource):
            raise UsageError(f"{source.id} has no places on a slide: it cannot be split by region")
        of_source = samples.source == number
        index = samples.index[of_source]
        cells[of_source] = np.stack([source.store.col[index], source.store.row[index]], axis=1)
    block = max(1, int(np.sqrt(len(samples) / choice.parts / 4)))
    while True:
        keys = np.column_stack([samples.source, cells // block])
        blocks = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        parts = choice.held_out(samples.code, blocks)
        near = [_near(samples, cells, held, gap) for held in parts]
        if all(_every_class_on_both_sides(samples, h, ~h & ~n) for h, n in zip(parts, near, strict=True)):
            break
        if block == 1:
            raise UsageError(
                f"{len(samples)} labelled tiles are too few, or lie too close, to hold a part out with every class "
                "on both sides; label more tiles, or give a split file"
            )
        block //= 2
    side = np.where(parts[0], TEST, np.where(near[0], LEFT_OUT, TRAIN)).astype(np.int8)
    how = (
        f"by region: blocks of {block} x {block} tiles{_part(choice.fold)}, "
        f"{int(near[0].sum())} tiles within {gap} tile left out"
    )
    return Split(side, how, "region", (TEST,))


def _near(samples: Samples, cells: NDArray[np.int64], held: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """Return which tiles outside `held` lie nearer than `gap` tile sides to a held-out one (or overlap it)."""
    from scipy.ndimage import maximum_filter

    near = np.zeros(len(samples), bool)
    for number, source in enumerate(samples.sources):
        assert isinstance(source, StoreSource)
        of_source = np.flatnonzero(samples.source == number)
        if not len(of_source):
            continue
        reach = -(-source.size * (1 + gap) // source.grid.step) - 1
        col, row = (cells[of_source] - cells[of_source].min(axis=0)).T
        taken = np.zeros((row.max() + 1, col.max() + 1), bool)
        taken[row, col] = held[of_source]
        near[of_source] = maximum_filter(taken, size=2 * reach + 1, mode="constant")[row, col] & ~held[of_source]
    return near
