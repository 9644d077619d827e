"""What is known about the tiles beyond their pixels: labels and predictions, one row per tile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.store import layout
from wsivit.store.files import TEMPORARY, Files, LocalFiles, put_in_place
from wsivit.store.lock import Lock

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COLUMNS = ("probabilities", "logits")
_WAIT = 60.0


@dataclass(frozen=True)
class LabelColumn:
    """One label per tile.

    Attributes
    ----------
    codes : ndarray of int16 (n,)
        Index into `classes`; -1 where there is none.
    classes : tuple of str
    """

    codes: NDArray[np.int16]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Predictions:
    """What a model says of every tile.

    Attributes
    ----------
    probabilities : ndarray of float32 (n, classes)
        NaN where nothing was predicted.
    classes : tuple of str
    attrs : dict
        What else belongs to the run: model fingerprint, temperature, …; anything JSON can hold.
    logits : ndarray of float32 (n, classes), optional
        What the model gave before the temperature; NaN where nothing was predicted.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    logits: NDArray[np.float32] | None = None


def check_name(kind: str, name: str) -> str:
    """Return a name that can be part of a store; UsageError for others."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} {name!r}: use letters, digits, '.', '_' and '-', at most 100, beginning with one of the first"
        )
    return name


def _present(files: Files, kind: str, name: str) -> str:
    there = layout.nodes(files, kind)
    if name not in there:
        raise UsageError(f"{files.url} has no {kind} {name!r}; it has {', '.join(there) or 'none'}")
    return f"{kind}/{name}"


@contextmanager
def _replacing(files: Files, kind: str, name: str) -> Iterator[str]:
    """Give a key to write a node at, and put it at ``kind/name`` when it is whole."""
    node = f"{kind}/{check_name(kind, name)}"
    if not isinstance(files, LocalFiles):
        files.remove(f"{node}/{layout.DOCUMENT}")
        layout.ensure_group(files, kind)
        yield node
        return
    with Lock(files.root.with_name(f"{files.root.name}.{kind}.{name}"), wait=_WAIT):
        layout.ensure_group(files, kind)
        temporary = f"{kind}/{TEMPORARY}{name}"
        files.remove(temporary)
        yield temporary
        put_in_place(files.root / temporary, files.root / node)


def read_labels(files: Files, name: str) -> LabelColumn:
    """Read ``labels/<name>``; UsageError names the ones that are there."""
    codes, attributes = layout.read_array(files, _present(files, "labels", name))
    return LabelColumn(codes.astype(np.int16, copy=False), tuple(attributes["classes"]))


def write_label_column(files: Files, node: str, column: LabelColumn, n: int) -> None:
    """Write a label column at a key; StoreError where it does not fit the `n` tiles."""
    codes = np.asarray(column.codes, np.int16)
    if codes.shape != (n,) or (n and not -1 <= codes.min() <= codes.max() < len(column.classes)):
        raise StoreError(f"labels for {files.url} must be {n} codes from -1 to {len(column.classes) - 1}, one per tile")
    layout.write_array(files, node, codes, ("tile",), {"classes": list(column.classes), "none": -1})


def save_labels(files: Files, name: str, column: LabelColumn, n: int) -> None:
    """Write ``labels/<name>`` into a store, in place of one of the same name."""
    with _replacing(files, "labels", name) as node:
        write_label_column(files, node, column, n)


def read_predictions(files: Files, run: str) -> Predictions:
    """Read ``predictions/<run>``; UsageError names the ones that are there."""
    node = _present(files, "predictions", run)
    attributes = layout.attributes_of(layout.read_document(files, node))
    there = {"probabilities", *layout.nodes(files, node)} & set(_COLUMNS)
    columns = {name: layout.read_array(files, f"{node}/{name}")[0] for name in there}
    return Predictions(classes=tuple(attributes["classes"]), attrs=attributes["attrs"], **columns)


def save_predictions(files: Files, run: str, predictions: Predictions, n: int) -> None:
    """Write ``predictions/<run>`` into a store, in place of a run of the same name."""
    columns = {"probabilities": predictions.probabilities, "logits": predictions.logits}
    given = {name: np.asarray(values, np.float32) for name, values in columns.items() if values is not None}
    for name, values in given.items():
        if values.shape != (n, len(predictions.classes)):
            raise StoreError(f"{name} for {files.url} must be {(n, len(predictions.classes))}, not {values.shape}")
    with _replacing(files, "predictions", run) as node:
        for name, values in given.items():
            layout.write_array(files, f"{node}/{name}", values, ("tile", "class"), {})
        layout.write_group(files, node, {"classes": list(predictions.classes), "attrs": predictions.attrs})
