"""Which pictures are learned from and which are held out. Pure on arrays; no torch."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.data.samples import Samples, StoreSource
from wsivit.errors import UsageError

Sides: TypeAlias = NDArray[np.int8]
By: TypeAlias = Literal["auto", "patient", "slide", "site", "region"]

TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, -1
SIDES = {TRAIN: "train", VALIDATION: "validation", TEST: "test", LEFT_OUT: "left out"}


@dataclass(frozen=True, eq=False)
class Split:
    """The side of each picture.

    Attributes
    ----------
    side : ndarray of int8 (n,)
        0 train, 1 validation, 2 test, -1 left out (too near to the other side).
    how : str
        How it was made, in words.
    by : str
        What was kept whole: ``patient``, ``slide``, ``site``, ``region``, or ``file``.
    """

    side: Sides
    how: str
    by: str

    def of(self, side: int) -> NDArray[np.int64]:
        """Return the places of one side's pictures."""
        return np.flatnonzero(self.side == side)


def split_samples(samples: Samples, fraction: float = 0.2, *, by: By = "auto", seed: int = 0, gap: int = 1) -> Split:
    """Hold out a part: whole patients where every class is seen in two of them, else regions of the slides.

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

    Raises
    ------
    UsageError
        No split has every class on both sides.
    """
    if not 0 < fraction <= 0.5:
        raise UsageError(f"the held-out part must be more than 0 and at most 0.5, not {fraction}")
    if by == "auto":
        by = "patient" if _in_two_groups(samples, samples.patients) else "region"
    if by == "region":
        return _split_regions(samples, fraction, seed, gap)
    groups = _groups(samples, by)
    held = _hold_out(samples.code, groups, fraction, seed)
    if not _every_class_on_both_sides(samples, held, ~held):
        raise UsageError(
            f"no split by {by} has every class on both sides ({_spread(samples, groups, by)}); "
            "add slides, or split by region"
        )
    side = np.where(held, VALIDATION, TRAIN).astype(np.int8)
    chosen = sorted(set(groups[held]))
    return Split(side, f"by {by}: {len(chosen)} of {len(set(groups))} held out", by)


def write_split(path: str | os.PathLike[str], samples: Samples, split: Split) -> None:
    """Write a split as CSV: ``source,item,label,split``, one line per picture."""
    names = [source.id for source in samples.sources]
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "item", "label", "split"])
        for number, item, code, side in zip(samples.source, samples.items(), samples.code, split.side, strict=True):
            writer.writerow([names[number], item, samples.classes[code], SIDES[int(side)]])


def read_split(path: str | os.PathLike[str], samples: Samples) -> Split:
    """Read a split written by :func:`write_split` or by hand; a line with an empty item is for the whole source.

    Raises
    ------
    UsageError
        The file is no split, or does not say where a picture belongs.
    """
    whole, single = _read_sides(Path(path))
    names = [source.id for source in samples.sources]
    keys = [(names[number], item) for number, item in zip(samples.source, samples.items(), strict=True)]
    sides = [single.get(key, whole.get(key[0])) for key in keys]
    missing = [key for key, side in zip(keys, sides, strict=True) if side is None]
    if missing:
        raise UsageError(
            f"{path}: says nothing about {len(missing)} pictures, the first is {missing[0][1]} of {missing[0][0]}"
        )
    return Split(np.array(sides, np.int8), f"read from {Path(path).name}", "file")


def _read_sides(path: Path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    codes = {name: code for code, name in SIDES.items()}
    whole: dict[str, int] = {}
    single: dict[tuple[str, str], int] = {}
    try:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                side = codes[line["split"]]
                if line.get("item"):
                    single[line["source"], line["item"]] = side
                else:
                    whole[line["source"]] = side
    except (OSError, KeyError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: not a split: needs columns source, item, split ({', '.join(codes)}): {error}"
        ) from error
    return whole, single


def _groups(samples: Samples, by: By) -> NDArray[np.str_]:
    if by == "patient":
        return samples.patients
    if by == "slide":
        return samples.per_source([source.fingerprint for source in samples.sources])
    return samples.per_source([source.site for source in samples.sources])


def _in_two_groups(samples: Samples, groups: NDArray[np.str_]) -> bool:
    codes = range(len(samples.classes))
    return all(len(set(groups[samples.code == code])) > 1 for code in codes)


def _spread(samples: Samples, groups: NDArray[np.str_], by: str) -> str:
    found = [f"{name} in {len(set(groups[samples.code == code]))}" for code, name in enumerate(samples.classes)]
    return f"{by}s per class: {', '.join(found)}"


def _hold_out(code: NDArray[np.int64], groups: NDArray[np.generic], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return the fold of whole groups whose share of every class is nearest to `fraction`."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = len(np.unique(groups))
    # scikit-learn wants at least as many groups, and pictures of the commonest class, as folds.
    n_folds = min(max(2, round(1 / fraction)), n_groups, int(np.bincount(code).max()))
    held = np.zeros(len(code), bool)
    if n_folds < 2:
        return held
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(code, code, groups)
    total = np.bincount(code)

    def miss(fold: NDArray[np.int64]) -> float:
        return float(np.abs(np.bincount(code[fold], minlength=len(total)) / total - fraction).max())

    held[min((fold for _, fold in folds), key=miss)] = True
    return held


def _every_class_on_both_sides(samples: Samples, *sides: NDArray[np.bool_]) -> bool:
    return all(len(np.unique(samples.code[side])) == len(samples.classes) for side in sides)


def _split_regions(samples: Samples, fraction: float, seed: int, gap: int) -> Split:
    """Hold out square blocks: as large as still gives every class on both sides, about 20 blocks to start with."""
    cells = _cells(samples)
    block = max(1, int(np.sqrt(len(samples) * fraction / 4)))
    while True:
        groups = _blocks(samples, cells, block)
        held = _hold_out(samples.code, groups, fraction, seed)
        near = _near(samples, cells, held, gap)
        train = ~held & ~near
        if _every_class_on_both_sides(samples, held, train):
            break
        if block == 1:
            raise UsageError(
                f"{len(samples)} labelled tiles are too few, or lie too close, to hold a part out with every class on "
                "both sides; label more tiles, or give a split file"
            )
        block //= 2
    side = np.where(held, VALIDATION, np.where(train, TRAIN, LEFT_OUT)).astype(np.int8)
    how = f"by region: blocks of {block} x {block} tiles, {int(near.sum())} tiles within {gap} tile left out"
    return Split(side, how, "region")


def _cells(samples: Samples) -> NDArray[np.int64]:
    """Column and row of each tile (n, 2)."""
    cells = np.empty((len(samples), 2), np.int64)
    for number, source in enumerate(samples.sources):
        if not isinstance(source, StoreSource):
            raise UsageError(f"{source.id} has no places on a slide: it cannot be split by region")
        here = samples.source == number
        index = samples.index[here]
        cells[here] = np.stack([source.store.col[index], source.store.row[index]], axis=1)
    return cells


def _blocks(samples: Samples, cells: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Number the block that each tile is in; (n,)."""
    keys = np.column_stack([samples.source, cells // block])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def _near(samples: Samples, cells: NDArray[np.int64], held: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """Return which tiles outside `held` lie nearer than `gap` tile sides to a held-out one (or overlap it)."""
    from scipy.ndimage import maximum_filter

    near = np.zeros(len(samples), bool)
    for number, source in enumerate(samples.sources):
        assert isinstance(source, StoreSource)
        here = np.flatnonzero(samples.source == number)
        if not len(here):
            continue
        reach = -(-source.size * (1 + gap) // source.grid.step) - 1
        col, row = (cells[here] - cells[here].min(axis=0)).T
        taken = np.zeros((row.max() + 1, col.max() + 1), bool)
        taken[row, col] = held[here]
        near[here] = maximum_filter(taken, size=2 * reach + 1, mode="constant")[row, col] & ~held[here]
    return near
