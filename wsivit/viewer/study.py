"""The slides that one viewer shows, and a row of facts about each, read in the background."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsivit.cohort import CohortLayout
from wsivit.errors import StoreError, UsageError, WsivitError
from wsivit.heatmap import read_heatmap_data, slide_scores
from wsivit.io import is_url
from wsivit.slide import fingerprint, slide_id
from wsivit.slide_list import SlideRow, find_slides
from wsivit.store import Status, TileStore
from wsivit.viewer.viewed_slide import ViewedSlide, ViewSource

_OPEN = 6  # slides that are open at a time
_KEY = 16
_THRESHOLD = 0.5


@dataclass
class StudyRow:
    """What the list of slides shows of one.

    Attributes
    ----------
    source : ViewSource
    state : str
        ``"listed"``, ``"ready"`` once everything is read, or what is wrong.
    facts : dict
        Tiles, quality control, scores by run, labels; plain values.
    """

    source: ViewSource
    state: str = "listed"
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the page."""
        return {"key": self.source.key, "name": self.source.name, "state": self.state, **self.facts}


class Study:
    """All slides of a viewer. Each is opened when it is first looked at.

    Parameters
    ----------
    sources : sequence of path or URL
        Stores, slides, folders, globs, tables, and outputs of cohorts.
    label : str
        Name of the label column that is painted.
    annotations : str, optional
        Of a single slide.
    open_options : dict
        Of `open_slide`, for slides without a store.

    Raises
    ------
    UsageError
        If there is no slide, or annotations are given for many.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        label: str,
        annotations: str | None = None,
        open_options: dict[str, Any] | None = None,
    ) -> None:
        self._label, self._open_options = label, open_options or {}
        rows = (row for source in sources for row in _rows(source))
        self._slides = list({row.source: row for row in rows}.values())
        if annotations is not None and len(self._slides) > 1:
            raise UsageError("--annotations is for one slide; for many, give a table (.csv) with a column annotations")
        self._annotations = annotations
        self.rows: list[StudyRow] = []
        self._by_key: dict[str, StudyRow] = {}
        self._place: dict[str, int] = {}
        self._same = Counter[str]()
        self._open: OrderedDict[str, ViewedSlide] = OrderedDict()
        self._lock = threading.Lock()
        self.changes = 0
        """How often a row was added or changed: pages ask for what is newer."""
        self._changed_at: list[int] = []
        self.complete = False
        self._stop = threading.Event()
        if len(self._slides) == 1:  # what is wrong with the only slide is said before a browser opens
            self._list(self._slides[0], strict=True)
            self.open(self.rows[0].source.key)
        self._reader = threading.Thread(target=self._read, name="wsivit-view-study", daemon=True)

    def __len__(self) -> int:
        return len(self._slides)

    def start(self) -> None:
        """Begin to read the rows in the background."""
        self._reader.start()

    def close(self) -> None:
        """Stop reading, and close the slides."""
        self._stop.set()
        if self._reader.is_alive():
            self._reader.join()
        with self._lock:
            for slide in self._open.values():
                slide.close()

    def opened(self, key: str) -> ViewedSlide | None:
        """Return the slide of a key if it is open already."""
        return self._open.get(key)

    def open(self, key: str) -> ViewedSlide | None:
        """Return the slide of a key, opened; None where there is none.

        Raises
        ------
        WsivitError
            If it cannot be opened.
        """
        row = self._by_key.get(key)
        if row is None:
            return None
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        slide = ViewedSlide(row.source, self._label)
        with self._lock:
            # Two requests may both have opened it: the first stays.
            slide = self._open.setdefault(key, slide)
            self._open.move_to_end(key)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return slide

    def newer(self, than: int) -> list[dict[str, Any]]:
        """Return the rows that were added or changed after a number of `changes`, each with its place."""
        return [{"at": at, **self.rows[at].to_dict()} for at, changed in enumerate(self._changed_at) if changed > than]

    def refresh(self, key: str) -> None:
        """Read the facts of a slide again: its labels have changed."""
        self._summarise(self._place[key])

    def _read(self) -> None:
        for slide in self._slides[len(self.rows) :]:
            if self._stop.is_set():
                return
            self._list(slide)
        for at in range(len(self.rows)):
            if self._stop.is_set():
                return
            self._summarise(at)
        self.complete = True
        self.changes += 1

    def _list(self, slide: SlideRow, *, strict: bool = False) -> None:
        """Add a row: the identity of its slide, and what can be read at once."""
        path, store, state, facts, digest = slide.path or "", slide.store or "", "listed", {}, ""
        name = slide_id(path or store)
        options = {**self._open_options, **({} if slide.mpp is None else {"mpp": slide.mpp})}
        try:
            if store and (not path or strict or TileStore.is_store(store)):
                parameters = (opened := TileStore(store)).parameters
                digest, name = parameters.slide_fingerprint, parameters.slide_id
                facts = {"tiles": len(opened), "mpp": parameters.mpp[0]}
            else:
                store, digest = "", fingerprint(path)
        except (WsivitError, OSError) as error:
            if strict:
                raise
            state = _trouble(error)
        key = self._key(digest or f"unreadable {path or store}")
        annotations = self._annotations or slide.annotations or ""
        row = StudyRow(ViewSource(key, name, path, store, annotations, options), state, facts)
        self._by_key[key], self._place[key] = row, len(self.rows)
        self.rows.append(row)
        self.changes += 1
        self._changed_at.append(self.changes)

    def _key(self, digest: str) -> str:
        """Make a key of the fingerprint; another store of the same slide gets a number too."""
        key = hashlib.sha256(digest.encode("utf-8", "surrogateescape")).hexdigest()[:_KEY]
        self._same[key] += 1
        return key if self._same[key] == 1 else f"{key}-{self._same[key]}"

    def _summarise(self, at: int) -> None:
        row = self.rows[at]
        if row.state not in ("listed", "ready"):
            return
        try:
            facts = _summary(TileStore(row.source.store)) if row.source.store else {}
            row.facts, row.state = {**row.facts, **facts}, "ready"
        except (WsivitError, OSError) as error:
            row.state = _trouble(error)
        self.changes += 1
        self._changed_at[at] = self.changes


def _rows(source: str | os.PathLike[str]) -> list[SlideRow]:
    """Return the slides of a source; of a cohort's output, those of the cohort with their stores."""
    text = os.fspath(source)
    if is_url(text) or Path(text).is_dir():
        layout = CohortLayout(text)
        if not text.rstrip("/").endswith(".zarr") and layout.exists:
            return layout.stored_slides()
    return find_slides([source])


def _summary(store: TileStore) -> dict[str, Any]:
    """Facts of a store that slides are sorted and filtered by."""
    readable = store.readable
    facts: dict[str, Any] = {
        "unreadable": int((store.status == Status.UNREADABLE).sum()),
        "qc": {name: _mean(values[readable]) for name, values in store.qc.items()},
        "labels": {},
        "runs": {},
    }
    for name in store.labels:
        column = store.label(name)
        counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.classes)).tolist()
        facts["labels"][name] = {label: n for label, n in zip(column.classes, counts, strict=True) if n}
    for run in sorted(store.runs):
        data = read_heatmap_data(store, run)
        thresholds = dict.fromkeys(data.classes, _THRESHOLD)
        scores = slide_scores(data.probabilities[data.predicted], thresholds, data.scores, data.slide_mpp)
        main = scores[data.main_class]
        facts["runs"][run] = {
            "class": main.class_name,
            "mean": main.mean,
            "top": main.top_k_mean,
            "share": main.area_fraction,
            "focus": main.largest_focus_mm2,
        }
    return facts


def _mean(values: np.ndarray[Any, Any]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _trouble(error: Exception) -> str:
    """What is wrong with a slide, in words without its path."""
    if isinstance(error, StoreError):
        return "the store is incomplete or damaged"
    if isinstance(error, FileNotFoundError):
        return "not there"
    return "cannot be read"
