"""What a model says of every tile, written block by block, so that predicting can be killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.store import layout
from wsivit.store.columns import WAIT, building_key, lock_column, present, put_column
from wsivit.store.files import Files

KIND = "predictions"
BLOCK = 4096
_COLUMNS = ("probabilities", "logits")
_BEGUN = "begun.json"


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


def read_predictions(files: Files, run: str) -> Predictions:
    """Read ``predictions/<run>``; UsageError names the ones that are there."""
    node = present(files, KIND, run)
    classes, attrs = (layout.attribute(files, node, name) for name in ("classes", "attrs"))
    there = {_COLUMNS[0], *layout.nodes(files, node)} & set(_COLUMNS)
    columns = {name: layout.read_array(files, f"{node}/{name}") for name in there}
    return Predictions(classes=tuple(classes), attrs=attrs, **columns)


class PredictionsWriter:
    """The predictions of a run in the making; of `TileStore.predictions_writer`. Use it as a context manager.

    They are written in blocks of tiles. A run that was broken off goes on with what is not written yet, if classes and
    attributes are the same; if not, it begins anew. Nothing is seen of it in the store before :meth:`finish`.
    """

    def __init__(
        self, files: Files, run: str, n: int, classes: Sequence[str], attrs: dict[str, Any], *, afresh: bool = False
    ) -> None:
        self._files = files
        self._run = run
        self._n = n
        self._classes = list(classes)
        self._attrs = attrs
        self._key = building_key(files, KIND, run)
        with ExitStack() as stack:
            stack.enter_context(lock_column(files, KIND, run, wait=WAIT if afresh else 0))
            self._begin(afresh)
            self._stack = stack.pop_all()

    def _begin(self, afresh: bool) -> None:
        begun = json.dumps({"classes": self._classes, "attrs": self._attrs}).encode()
        key = f"{self._key}/{_BEGUN}"
        if afresh or self._files.size(key) is None or self._files.read(key) != begun:
            self._files.remove(self._key)
            layout.ensure_group(self._files, KIND)
            self._files.write(key, [begun])

    def pending(self) -> list[range]:
        """Return the blocks not yet written, as ranges of tile indexes."""
        # Logits come before probabilities: a block is written when the latter are.
        blocks = [range(start, min(self._n, start + BLOCK)) for start in range(0, self._n, BLOCK)]
        return [block for block in blocks if self._files.size(self._chunk(_COLUMNS[0], block)) is None]

    def _chunk(self, column: str, block: range) -> str:
        return layout.chunk_key(f"{self._key}/{column}", block.start // BLOCK, 0)

    def write(
        self, tiles: range, probabilities: NDArray[np.float32], logits: NDArray[np.float32] | None = None
    ) -> None:
        """Write one block of :meth:`pending`, float32 (len(tiles), classes); NaN where nothing was predicted.

        Raises
        ------
        StoreError
            When `tiles` is not a block, or the shapes do not fit.
        """
        for name, values in (("logits", logits), ("probabilities", probabilities)):
            if values is None:
                continue
            if values.shape != (len(tiles), len(self._classes)) or tiles.start % BLOCK or len(tiles) > BLOCK:
                raise StoreError(f"{name} of {self._run} for {tiles}: {values.shape} is no block of {self._files.url}")
            block = np.full((min(self._n, BLOCK), len(self._classes)), np.nan, np.float32)
            block[: len(tiles)] = values
            layout.write_chunk(self._files, self._chunk(name, tiles), block)

    def finish(self) -> None:
        """Put the predictions in their place, and away with older ones of the run.

        Raises
        ------
        StoreError
            When blocks are still to be written.
        """
        if missing := self.pending():
            raise StoreError(
                f"predictions of {self._run}: {len(missing)} blocks are not written, the first {missing[0]}"
            )
        shape = (self._n, len(self._classes))
        chunk = (max(1, min(self._n, BLOCK)), max(1, len(self._classes)))
        for name in _COLUMNS:
            if name == _COLUMNS[0] or self._files.list(f"{self._key}/{name}"):
                spec = layout.ArraySpec(shape, chunk, "float32", ("tile", "class"), fill="NaN")
                layout.write_document(self._files, f"{self._key}/{name}", spec.to_dict(), {})
        self._files.remove_temporaries(self._key)
        self._files.remove(f"{self._key}/{_BEGUN}")
        layout.write_group(self._files, self._key, {"classes": self._classes, "attrs": self._attrs})
        put_column(self._files, KIND, self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def save_predictions(files: Files, run: str, predictions: Predictions, n: int) -> None:
    """Write ``predictions/<run>`` into a store whole, in place of a run of the same name."""
    logits = predictions.logits
    for values in (predictions.probabilities, logits):
        if values is not None and values.shape != (n, len(predictions.classes)):
            raise StoreError(f"predictions for {files.url} must be {(n, len(predictions.classes))}, not {values.shape}")
    with PredictionsWriter(files, run, n, predictions.classes, predictions.attrs, afresh=True) as writer:
        for block in (range(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK)):
            part = slice(block.start, block.stop)
            writer.write(block, predictions.probabilities[part], None if logits is None else logits[part])
        writer.finish()
