"""Labels that a person paints on tiles: a label column of the store, and the same as QuPath GeoJSON.

A page sends the tiles of one stroke, never the complete column: strokes of two pages add up.
"""

from __future__ import annotations

import getpass
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping

from wsivit.errors import UsageError
from wsivit.heatmap import class_colors
from wsivit.io import LocalFiles, replacing
from wsivit.store import LabelColumn, TileStore

ANSWERS = ("unsure", "artefact")
"""What a person may say of a tile besides its class."""
_MOST_CLASSES = 250


@dataclass(frozen=True)
class Stroke:
    """Tiles that get one label.

    Attributes
    ----------
    labels : dict of int to str or None
        The new label of each tile, by its index; None takes it away.
    run : str
        The predictions that were on the screen; empty for none.
    """

    labels: Mapping[int, str | None]
    run: str = ""

    @classmethod
    def from_json(cls, body: bytes, tiles: int, allowed: Sequence[str]) -> Stroke:
        """Check what a page sent; UsageError for anything but known tiles and allowed labels."""
        try:
            sent = json.loads(body)
            labels = {int(index): label for index, label in sent["labels"].items()}
            run = str(sent.get("run", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UsageError("a stroke must be JSON with labels by tile") from None
        if any(not 0 <= index < tiles for index in labels):
            raise UsageError(f"a stroke has tiles that are none of the {tiles} of the store")
        if any(label is not None and label not in allowed for label in labels.values()):
            raise UsageError("a stroke has a label that is none of those on offer")
        return cls(labels, run)


class PaintedLabels:
    """One label column of one store, that a person changes stroke by stroke.

    Parameters
    ----------
    store : TileStore
    name : str
        Of the column.
    """

    def __init__(self, store: TileStore, name: str) -> None:
        self._store, self.name = store, name
        self._lock = threading.Lock()

    def read(self) -> LabelColumn:
        """Return the column as it is now; without labels where it does not exist yet."""
        if self.name in self._store.labels:
            return self._store.label(self.name)
        return LabelColumn(np.full(len(self._store), -1, np.int16), ())

    def offered(self) -> list[str]:
        """Return the labels to paint with: the column's classes, those of all runs, and `ANSWERS`."""
        classes = list(self.read().classes)
        for run in sorted(self._store.runs):
            classes += self._store.predictions(run).classes
        return list(dict.fromkeys([*(name for name in classes if name not in ANSWERS), *ANSWERS]))[:_MOST_CLASSES]

    def paint(self, stroke: Stroke) -> LabelColumn:
        """Add a stroke to the column, with who painted it, when, and on which run; return the column.

        Raises
        ------
        StoreError, OutputError
            If the column cannot be written.
        """
        with self._lock:
            before = self.read()
            classes = list(dict.fromkeys([*before.classes, *filter(None, stroke.labels.values())]))
            codes = before.codes.copy()
            for index, label in stroke.labels.items():
                codes[index] = -1 if label is None else classes.index(label)
            history = _with_stroke(before.attrs.get("painted", []), stroke)
            self._store.write_labels(self.name, codes, classes, {**before.attrs, "painted": history})
            column = self.read()
            if isinstance(self._store.files, LocalFiles):
                self._write_geojson(column, self.geojson_path(self._store.files.root))
            return column

    def geojson_path(self, root: Path) -> Path:
        """Where the regions for QuPath are written: next to the store."""
        return root.with_name(f"{root.stem}-{self.name}.geojson")

    def _write_geojson(self, column: LabelColumn, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(label_regions(self._store, column), ensure_ascii=False), encoding="utf-8")


def label_regions(store: TileStore, column: LabelColumn) -> dict[str, Any]:
    """Return labelled tiles as QuPath annotations: one per class, tiles joined, in the coordinates QuPath shows."""
    parameters = store.parameters
    origin = np.asarray(parameters.slide_bounds[:2], np.float64)
    frame = shapely.box(0, 0, *parameters.slide_size)
    boxes = store.grid.boxes0(store.col, store.row)
    features = []
    for code, (name, color) in enumerate(zip(column.classes, class_colors(len(column.classes), -1), strict=True)):
        x0, y0, x1, y1 = boxes[column.codes == code].T
        if not len(x0):
            continue
        joined = shapely.intersection(shapely.union_all(shapely.box(x0, y0, x1, y1)), frame)
        in_view = shapely.transform(joined, lambda xy: np.round(xy - origin, 2))
        properties = {"objectType": "annotation", "classification": {"name": name, "color": list(color)}}
        features.append({"type": "Feature", "geometry": mapping(in_view), "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _with_stroke(history: list[dict[str, Any]], stroke: Stroke) -> list[dict[str, Any]]:
    """Add a stroke to the record of who painted: strokes in a row of one person on one run are one entry."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        who = "unknown"
    entry = {"who": who, "run": stroke.run, "first": now, "last": now, "tiles": len(stroke.labels)}
    if history and (history[-1]["who"], history[-1]["run"]) == (entry["who"], entry["run"]):
        last = history[-1]
        entry |= {"first": last["first"], "tiles": last["tiles"] + entry["tiles"]}
        history = history[:-1]
    return [*history, entry]
