"""Evidence of a slide-level prediction as a heatmap: signed, in logit units, on a scale that is always the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wsivit.errors import StoreError, UsageError
from wsivit.heatmap.colors import UNCERTAINTY_CMAP
from wsivit.heatmap.heatmap_data import HeatmapData, TrainedOn
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import Window, smooth, stitch
from wsivit.store import TileStore

LOGITS = 5.0
"""End of the scale of evidence: a slide all of whose tiles are like that is 99.3 % sure."""
_ATTENTION = 10.0
_WITHOUT_EVIDENCE = ("argmax", "uncertainty", "csv", "h5", "stamp", "pt", "parquet", "h5ad")
"""Formats that hold probabilities by their definition."""


@dataclass(frozen=True, kw_only=True)
class EvidenceData(HeatmapData):
    """What each tile adds to the prediction of its slide.

    The map has the contribution of a tile times the number of tiles, so that slides of any size compare: the mean over
    the tiles is the logit of the slide.

    Attributes
    ----------
    method : str
    logits : dict of str to float
        Of the slide.
    faithfulness : float or None
        By deletion, in logits above a random order; None where it was not measured.
    end : float
        Both ends of the scale; of attention, the upper one.
    unit : str
    """

    method: str
    logits: dict[str, float]
    faithfulness: float | None
    end: float
    unit: str

    def quantity(self, name: str) -> str:
        """See `HeatmapData`."""
        return "attention" if self.method == "attention" else f"{name} evidence ({self.unit})"

    def scale_label(self, name: str) -> str:
        """See `HeatmapData`."""
        if self.method == "attention":
            return "attention, in multiples of the mean tile"
        return f"evidence for {name} ({self.unit})"

    @property
    def notes(self) -> tuple[str, ...]:
        """See `HeatmapData`."""
        logits = ", ".join(f"{name} {value:+.2f}" for name, value in self.logits.items())
        notes = [f"mean of the tiles: {logits}" if self.method == "contribution" else f"slide: {logits}"]
        if self.faithfulness is not None:
            notes.append(f"by deletion {self.faithfulness:+.2f} better than a random order")
        return tuple(notes)

    def fit(self, options: HeatmapOptions) -> HeatmapOptions:
        """See `HeatmapData`: the scale runs from minus to plus `end`, the threshold is a share of it."""
        changed: dict[str, Any] = {"vmin": -self.end, "vmax": self.end, "threshold": options.threshold * self.end}
        if self.method == "attention":
            changed["vmin"] = 0.0
            if options.cmap == HeatmapOptions().cmap:  # attention has no neutral middle
                changed["cmap"] = UNCERTAINTY_CMAP
        return _EvidenceOptions(**asdict(options) | changed)

    def check_format(self, format: str) -> None:
        """See `HeatmapData`."""
        if format in _WITHOUT_EVIDENCE:
            raise UsageError(f"{format} holds probabilities, {self.run} is evidence: choose another format")

    def selected_classes(self, name: str | None) -> list[int]:
        """See `HeatmapData`: by default the class of the highest logit."""
        if name is None and len(self.classes) > 1:
            return [int(np.argmax([self.logits[each] for each in self.classes]))]
        return [self.class_index(name)]

    @property
    def facts(self) -> dict[str, Any]:
        """See `HeatmapData`."""
        return super().facts | {"evidence": self.method, "unit": self.unit, "logits": self.logits}


class _EvidenceOptions(HeatmapOptions):
    """Options whose scale and threshold are no probabilities."""

    def __post_init__(self) -> None:
        pass


def has_evidence(store: TileStore, run: str | None) -> bool:
    """Whether a run's name means evidence: where no predictions have that name, or there are none at all."""
    if run is None:
        return not store.runs and bool(store.evidence_runs)
    return run not in store.runs and run.partition("/")[0] in store.evidence_runs


def read_evidence_data(store: TileStore, run: str | None, window: Window, smoothing_um: float) -> EvidenceData:
    """Read and stitch the evidence of a run; ``<run>/<method>`` names another method than the one to show.

    Raises
    ------
    UsageError
        There are several runs and none is chosen, or the run has no such method.
    StoreError
        The evidence does not fit the tiles.
    """
    if run is None and len(store.evidence_runs) > 1:
        runs = ", ".join(store.evidence_runs)
        raise UsageError(f"{store.url}: evidence of several runs; choose one of {runs} (--run)")
    name, _, method = (run or store.evidence_runs[0]).partition("/")
    evidence = store.evidence(name)
    method = method or str(evidence.attrs["shown"])
    if method not in evidence.methods:
        existing = ", ".join(f"{name}/{each}" for each in evidence.methods)
        raise UsageError(f"{store.url}: no evidence {name}/{method}; it has {existing}")
    values = evidence.methods[method]
    known = np.isfinite(values).all(axis=1)
    if values.shape != (len(store), len(evidence.classes)) or not known.any():
        raise StoreError(f"{store.url}: evidence {name}/{method} does not fit the tiles; explain the slide again")
    if method != "single":  # which is a logit by itself
        values = values * np.float32(known.sum())
    classes, unit = evidence.classes, str(evidence.attrs["unit"])
    end = _ATTENTION if method == "attention" else LOGITS
    if unit != "logit" and method != "attention":
        end = float(np.nanmax(np.abs(values))) or 1.0  # a value has a unit of its own: nobody knows what is much of it
    if method == "attention":
        classes, values = ("attention",), values[:, :1]
    scores = stitch(store.grid, store.col, store.row, values, store.status, window)
    return EvidenceData(
        store,
        f"{name} {method}",
        classes,
        values,
        smooth(scores, smoothing_um / store.parameters.slide_mpp[0]),
        TrainedOn(np.zeros(len(store), bool)),
        method=method,
        logits=evidence.attrs["logit"],
        faithfulness=evidence.attrs.get("faithfulness", {}).get(method),
        end=end,
        unit=unit,
    )
