"""What is in the output of a cohort: slides, how far each verb is, scales, tiles, sizes, labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobLog
from wsivit.io import Described, format_bytes
from wsivit.store import TileStore

_LOOKED_AT = 20
"""Stores whose labels are read: of a hundred thousand, opening each would take long."""


@dataclass(frozen=True)
class CohortInfo(Described):
    """What is in the output of a cohort, as its records say.

    Attributes
    ----------
    path : str
    slides, patients : int
        Patients that the tables name.
    tiles, unreadable, bytes : int
        Of all stores.
    scales : dict of str to int
        Slides of each scale, and where it is from.
    verbs : dict of str to (dict of str to int)
        By verb and run or encoder (``tile``, ``predict vit``), how many slides are in which state.
    labels : dict of str to int
        Label columns, and how many of `looked_at` stores have them.
    looked_at : int
    """

    path: str
    slides: int
    patients: int
    tiles: int
    unreadable: int
    bytes: int
    scales: dict[str, int]
    verbs: dict[str, dict[str, int]]
    labels: dict[str, int]
    looked_at: int

    def rows(self) -> Mapping[str, str]:
        """See `Described`."""
        patients = f" of {self.patients} patients" if self.patients else ""
        unreadable = f", {self.unreadable} unreadable" if self.unreadable else ""
        of = f"in {{}} of {self.looked_at} stores" + (" looked at" if self.looked_at < self.slides else "")
        return {
            "cohort": self.path,
            "slides": f"{self.slides}{patients}",
            "tiles": f"{self.tiles:,}{unreadable}, {format_bytes(self.bytes)}",
            "scale": "\n".join(f"{count} slide{'s' * (count > 1)} at {scale}" for scale, count in self.scales.items()),
            "verbs": "\n".join(
                f"{verb}: {', '.join(f'{count} {state}' for state, count in states.items())}"
                for verb, states in self.verbs.items()
            ),
            "labels": "\n".join(f"{name} {of.format(count)}" for name, count in self.labels.items()),
        }


def cohort_info(cohort: str | os.PathLike[str]) -> CohortInfo:
    """Describe the output of a cohort from its records; writes nothing.

    Raises
    ------
    UsageError
        If it is not the output of a cohort.
    """
    layout = CohortLayout.existing(cohort)
    slides, log = layout.slides(), JobLog(layout.files)
    records = {kind: log.read(*kind) for kind in log.kinds()}
    states: dict[str, dict[str, int]] = {}
    for (verb, run), by_slide in records.items():
        done = (by_slide[slide.id].state if slide.id in by_slide else "not_started" for slide in slides)
        states[f"{verb} {run}".strip()] = dict(Counter(state.replace("_", " ") for state in done))
    # The tiles of a slide are counted once, whatever verbs it went through.
    newest = {record.slide_id: record for by_slide in records.values() for record in by_slide.values() if record.tiles}
    written = records.get(("tile", ""), {})
    looked_at = [layout.store(slide) for slide in slides[:_LOOKED_AT] if TileStore.is_store(layout.store(slide))]
    labels = Counter(name for store in looked_at for name in TileStore(store, allow_incomplete=True).labels)
    return CohortInfo(
        path=layout.root,
        slides=len(slides),
        patients=len({slide.patient for slide in slides if slide.patient}),
        tiles=sum(record.tiles for record in newest.values()),
        unreadable=sum(record.unreadable for record in newest.values()),
        bytes=sum(record.bytes for record in written.values()),
        scales=dict(Counter(record.scale for record in newest.values() if record.scale)),
        verbs=states,
        labels=dict(labels),
        looked_at=len(looked_at),
    )
