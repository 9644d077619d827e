"""What must not be on both sides of a split: checked before every training."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.data.labelled_tiles import Samples
from wsivit.data.splits import SIDES, TEST, TRAIN, TUNE, Split
from wsivit.data.tile_sources import StoreSource
from wsivit.errors import UsageError

EXAMINED, FLAT = 64, 8
"""Pictures of a class that are examined, and grey levels that an empty picture may span."""
MOST = 20_000
"""Pictures of a side that are compared for near duplicates."""
_PAIRS = ((TRAIN, TUNE), (TRAIN, TEST), (TUNE, TEST))
"""Sides that must share nothing: what chooses must not know what is reported either."""


def audit(samples: Samples, split: Split) -> list[str]:
    """Name every leak between what a model learns from, what chooses its epoch, and what is reported; empty if none.

    Looked for: a patient, a slide (by content, whatever its name) and a patch of tissue on two sides. A side that is
    split by region shares slides and patients with the others on purpose: there only overlapping tiles count.
    """
    names = {source.fingerprint: source.id for source in samples.sources}
    leaks = []
    for one, other in _PAIRS:
        ours, theirs = split.of(one), split.of(other)
        if other not in split.by_region:
            for what, groups, shown in (("patient", samples.patients, {}), ("slide", samples.slides, names)):
                both = np.intersect1d(groups.code[ours], groups.code[theirs])
                named = [shown.get(groups.names[code], groups.names[code]) for code in both[:3]]
                if named:
                    sides = f"{SIDES[one]} and {SIDES[other]}"
                    leaks.append(f"{what} {', '.join(named)} in {sides} ({len(both)} in all)")
        if overlaps := count_overlaps(samples, ours, theirs):
            leaks.append(f"{overlaps} {SIDES[other]} tiles overlap tiles of the {SIDES[one]} side")
    return leaks


def check_leakage(samples: Samples, split: Split, *, allow: bool = False) -> list[str]:
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


def warnings_of(samples: Samples, split: Split) -> list[str]:
    """Warn of what may make the model or its figures worthless without being a leak.

    Classes without a picture, pictures that show nothing, near duplicates, a label that follows the site.

    Reads pictures of both sides, evenly picked where there are more than :data:`MOST` of one: some seconds.
    """
    warnings = [
        f"CLASS WITHOUT PICTURES: {name!r} is named by the data, but no picture has it: the model will not know it"
        for name in samples.vanished
    ]
    warnings += [*split.warnings, *empty_classes(samples, split.of(TRAIN))]
    for what in ("site", "scanner"):
        strength = _association(samples, [getattr(source, what) for source in samples.sources])
        if strength > 0.8:
            warnings.append(
                f"the label follows the {what} (Cramér's V {strength:.2f} over slides): the model may learn the {what}"
            )
    if TEST in split.by_region and (split.side == TEST).any():
        warnings.append(
            "test tiles are other regions of slides that are trained on: they say nothing about other patients"
        )
    for side in split.by_region:
        touching = count_overlaps(samples, split.of(TRAIN), split.of(side), grown=0.5)
        if touching:
            warnings.append(f"{touching} {SIDES[side]} tiles lie beside training ones: leave out those between them")
    signatures = {side: _signatures(samples, _some(split.of(side))) for side in (TRAIN, TUNE, TEST)}
    for one, other in _PAIRS:
        pairs = _alike(signatures[one], signatures[other])
        if pairs:
            shown = "; ".join(" and ".join(samples.take(np.array(pair)).items()) for pair in pairs[:3])
            known = "training" if one == TRAIN else SIDES[one]
            warnings.append(f"{len(pairs)} {SIDES[other]} pictures are near duplicates of {known} ones: {shown}")
    return warnings


def empty_classes(samples: Samples, chosen: NDArray[np.int64]) -> list[str]:
    """Warn of classes most of whose pictures, among some, show nothing: empty glass, or white by a wrong reading."""
    found = []
    for code, name in enumerate(samples.classes):
        here = chosen[samples.code[chosen] == code]
        pixels = samples.read_skipping_unreadable(here[:: -(-len(here) // EXAMINED) or 1])[1]
        if not len(pixels):
            continue
        blank = np.ptp(pixels, axis=(1, 2)).max(axis=1) <= FLAT
        if blank.sum() > len(blank) / 2:
            mean = "/".join(f"{value:.0f}" for value in pixels[blank].mean(axis=(0, 1, 2)))
            found.append(
                f"EMPTY PICTURES: {blank.sum()} of {len(blank)} pictures of {name!r} looked at are one colour "
                f"(on average {mean}): is it glass, or were 16 bits read as 8?"
            )
    return found


def _some(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return chosen[:: -(-len(chosen) // MOST) or 1]


Signatures: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]


def _alike(known: Signatures, asked: Signatures, likeness: float = 0.97) -> list[tuple[int, int]]:
    """Find pictures that are one of another side once more: brighter, compressed again, hardly moved.

    The correlation of one picture with itself, lightened and at JPEG quality 60, was 0.995 or more on tissue, that of
    different tiles 0.8 at most. Each comes with the picture that it resembles most, by their place in the samples.
    """
    (ours, ours_at), (theirs, theirs_at) = known, asked
    pairs = []
    for start in range(0, len(theirs) if len(ours) else 0, 1024):
        alike = theirs[start : start + 1024] @ ours.T
        near, found = alike.argmax(axis=1), np.flatnonzero(alike.max(axis=1) >= likeness)
        pairs += [(int(theirs_at[start + i]), int(ours_at[near[i]])) for i in found]
    return pairs


def _signatures(samples: Samples, chosen: NDArray[np.int64]) -> Signatures:
    """16 x 16 grey means of pictures, as unit vectors (k, 256), and which they are of: flat glass all looks alike."""
    side = min(16, samples.size)
    edges = np.linspace(0, samples.size, side + 1).astype(int)[:-1]
    vectors: list[NDArray[np.floating]] = [np.empty((0, side * side), np.float32)]
    kept = [np.empty(0, np.int64)]
    for start in range(0, len(chosen), 128):
        batch = chosen[start : start + 128]
        batch, pixels = samples.read_skipping_unreadable(batch)
        grey = pixels.mean(axis=3, dtype=np.float32)
        means = np.add.reduceat(np.add.reduceat(grey, edges, axis=1), edges, axis=2).reshape(len(batch), -1)
        means *= (side / samples.size) ** 2
        means -= means.mean(axis=1, keepdims=True)
        uneven = means.std(axis=1) > 2
        vectors.append(means[uneven] / np.linalg.norm(means[uneven], axis=1, keepdims=True))
        kept.append(batch[uneven])
    return np.concatenate(vectors), np.concatenate(kept)


def _association(samples: Samples, values: list[str]) -> float:
    """Cramér's V between a value of each source and the classes it has; 0 where the value is not known of all."""
    names, place = np.unique(values, return_inverse=True)
    if len(names) < 2 or "" in names:
        return 0.0
    table = np.zeros((len(names), len(samples.classes)))
    np.add.at(table, place, samples.count_per_source(samples.code, len(samples.classes)) > 0)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi2 = ((table - expected) ** 2 / np.where(expected > 0, expected, 1)).sum()
    return float(np.sqrt(chi2 / (table.sum() * (min(table.shape) - 1))))


def count_overlaps(samples: Samples, train: NDArray[np.int64], held: NDArray[np.int64], *, grown: float = -1e-3) -> int:
    """How many held-out tiles share tissue with a training tile of the same slide.

    Each counts as `grown` by so many level-0 pixels: tiles that only touch share no tissue, and a thousandth of a pixel
    is far below any overlap; half a pixel more finds those that touch.
    """
    from shapely import STRtree, box

    count = 0
    prints = samples.slides.code
    for slide in np.intersect1d(prints[train], prints[held]):
        ours, theirs = (_boxes(samples, side[prints[side] == slide]) for side in (train, held))
        if not len(ours) or not len(theirs):
            continue
        asked = box(*(theirs + np.array([-grown, -grown, grown, grown])).T)
        hits = STRtree(box(*ours.T)).query(asked, predicate="intersects")
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
