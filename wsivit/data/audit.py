"""Is anything on both sides of a split that must not be? Run before every training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsivit.data.samples import Samples, StoreSource
from wsivit.data.splits import LEFT_OUT, SIDES, TRAIN, VALIDATION, Split
from wsivit.errors import UsageError


def audit(samples: Samples, split: Split) -> list[str]:
    """Name every leak between training and what is held out; empty when there is none.

    Looked for: a patient, a slide (by content, whatever its name) and a patch of tissue on both sides. A split by
    region shares slide and patient between training and validation on purpose: there only overlapping tiles count.
    """
    train = split.of(TRAIN)
    leaks = []
    for side in sorted(set(split.side.tolist()) - {TRAIN, LEFT_OUT}):
        held = split.of(side)
        if split.by != "region" or side != VALIDATION:
            leaks += _shared("patient", samples.patients, train, held, SIDES[side])
            leaks += _shared("slide", samples.slides, train, held, SIDES[side], _names(samples))
        overlaps = count_overlaps(samples, train, held)
        if overlaps:
            leaks.append(f"{overlaps} {SIDES[side]} tiles overlap tiles of the training side")
    return leaks


def require_clean(samples: Samples, split: Split, *, allow: bool = False) -> list[str]:
    """Refuse a split that leaks, unless that is allowed; return the leaks, to be recorded.

    Raises
    ------
    UsageError
    """
    leaks = audit(samples, split)
    if leaks and not allow:
        raise UsageError(
            f"the held-out part leaks: {'; '.join(leaks)}; its figures would be too good. "
            "Make another split, say --split-by region where a file splits regions on purpose, or go on with "
            "--allow-leakage, which is recorded"
        )
    return leaks


def count_overlaps(samples: Samples, train: NDArray[np.int64], held: NDArray[np.int64]) -> int:
    """How many held-out tiles share tissue with a training tile of the same slide."""
    from shapely import STRtree, box

    count = 0
    prints = samples.slides
    for slide in set(prints[train]) & set(prints[held]):
        ours, theirs = (_boxes(samples, side[prints[side] == slide]) for side in (train, held))
        if not len(ours) or not len(theirs):
            continue
        # Tiles that only touch share no tissue; a thousandth of a pixel is far below any overlap.
        inner = box(theirs[:, 0] + 1e-3, theirs[:, 1] + 1e-3, theirs[:, 2] - 1e-3, theirs[:, 3] - 1e-3)
        hits = STRtree(box(*ours.T)).query(inner, predicate="intersects")
        count += len(np.unique(hits[0]))
    return count


def _boxes(samples: Samples, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Extents of those pictures that lie on a slide (k, 4), level-0 pixels."""
    parts = [np.empty((0, 4))]
    for number in np.unique(samples.source[chosen]):
        source = samples.sources[number]
        if isinstance(source, StoreSource):
            parts.append(source.boxes(samples.index[chosen[samples.source[chosen] == number]]))
    return np.concatenate(parts)


def _shared(
    what: str,
    values: NDArray[np.str_],
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    side: str,
    names: dict[str, str] | None = None,
) -> list[str]:
    both = sorted(set(values[train].tolist()) & set(values[held].tolist()))
    shown = [(names or {}).get(value, value) for value in both[:3]]
    return [f"{what} {', '.join(shown)} in train and {side} ({len(both)} in all)"] if both else []


def _names(samples: Samples) -> dict[str, str]:
    return {source.fingerprint: source.id for source in samples.sources}
