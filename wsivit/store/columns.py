"""What people and models add to a store after its tiles: labels, predictions and features of every tile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.io import Files
from wsivit.store import zarr_metadata
from wsivit.store.column_writer import Column, ColumnLocation, ColumnWriter, check_name

VIEWS = 8
"""Flips and quarter turns of a tile."""
_LABELS, _PREDICTIONS, _FEATURES = "labels", "predictions", "features"
_EVIDENCE, _SLIDES = "evidence", "slides"
# The order of writing: a block is complete once its probabilities are written.
_PREDICTED = ("logits", "spread", "probabilities")


@dataclass(frozen=True)
class LabelColumn:
    """One label per tile.

    Attributes
    ----------
    codes : ndarray of int16 (n,)
        Index into `classes`; -1 where there is none.
    classes : tuple of str
    attrs : dict
        What else is known of the labels, such as who gave them; anything JSON can hold.
    """

    codes: NDArray[np.int16]
    classes: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of every tile.

    Attributes
    ----------
    probabilities : ndarray of float32 (n, classes)
        NaN where nothing was predicted. With several views of each tile, their mean.
    classes : tuple of str
    attrs : dict
        What else describes the run: model fingerprint, temperature, …; anything JSON can hold.
    logits : ndarray of float32 (n, classes) or (n, views, classes), optional
        The model's output before the temperature; NaN where nothing was predicted.
    spread : ndarray of float32 (n, classes), optional
        Standard deviation of the probabilities over the views of each tile.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    logits: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None

    @property
    def columns(self) -> dict[str, NDArray[np.float32]]:
        """The columns by name, in the order they are written."""
        values = {name: getattr(self, name) for name in _PREDICTED}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Features:
    """A feature vector per tile.

    Attributes
    ----------
    values : ndarray of float16 (n, d) or (n, tokens, d)
        NaN where there is none.
    attrs : dict
        What made them: model, fingerprint, …; anything JSON can hold.
    """

    values: NDArray[np.float16]
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What a slide-level prediction rests on, tile by tile.

    Attributes
    ----------
    methods : dict of str to ndarray of float32 (n, classes)
        By the name of the method; NaN for tiles without features. Signed, in logit units, for methods that explain the
        logit; ``attention`` is a weight for each tile, the same for all classes.
    classes : tuple of str
    attrs : dict
        What else describes it: model fingerprint, logit, which method is shown first, …; anything JSON can hold.
    """

    methods: dict[str, NDArray[np.float32]]
    classes: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


class PredictionsWriter(ColumnWriter):
    """Writes the predictions of a run block by block; from `TileStore.predictions_writer`. Use as a context manager."""

    def __init__(
        self,
        location: ColumnLocation,
        classes: Sequence[str],
        attrs: dict[str, Any],
        keeps: tuple[str, ...] = (),
        *,
        restart: bool = False,
    ) -> None:
        each, names = (len(classes),), ("class",)
        columns = {}
        if "logits" in keeps:
            columns["logits"] = Column(each, names)
        if "views" in keeps:
            columns["logits"] = Column((VIEWS, *each), ("view", *names))
        if "spread" in keeps:
            columns["spread"] = Column(each, names)
        columns["probabilities"] = Column(each, names)
        super().__init__(location, columns, {"classes": list(classes), "attrs": attrs}, restart=restart)

    def write(
        self,
        tiles: range,
        probabilities: NDArray[np.float32],
        logits: NDArray[np.float32] | None = None,
        spread: NDArray[np.float32] | None = None,
    ) -> None:
        """Write one block of :meth:`pending`, float32 (len(tiles), classes); NaN where nothing was predicted.

        Raises
        ------
        StoreError
            When `tiles` is not a block, the shapes do not fit, or a column is missing or was not asked to be kept.
        """
        self.write_block(tiles, Predictions(probabilities, (), logits=logits, spread=spread).columns)


class FeaturesWriter(ColumnWriter):
    """Writes the features of an encoder block by block; from `TileStore.features_writer`. Use as a context manager."""

    def __init__(self, location: ColumnLocation, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
        dimensions = ("token", "feature")[-len(shape) :]
        super().__init__(location, {"": Column(shape, dimensions, "float16")}, {"attrs": attrs})

    def write(self, tiles: range, values: NDArray[np.float16]) -> None:
        """Write one block of :meth:`pending`, float16 (len(tiles), d); NaN where there is nothing.

        Raises
        ------
        StoreError
            When `tiles` is not a block, or the shape does not fit.
        """
        self.write_block(tiles, {"": values})


class TileColumns:
    """The part of a `TileStore` that holds one value or vector per tile, from people or models."""

    files: Files
    _n: int

    def _existing(self, kind: str, name: str) -> str:
        """Return the key of an existing column."""
        existing = zarr_metadata.nodes(self.files, kind)
        if name not in existing:
            raise UsageError(f"{self.files.url} has no {kind} {name!r}; it has {', '.join(existing) or 'none'}")
        return f"{kind}/{name}"

    def cleanup(self, kind: str, name: str) -> None:
        """Remove what a killed writer of the existing column ``<kind>/<name>`` may have left."""
        ColumnLocation(self.files, kind, name, self._n).cleanup()

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        return zarr_metadata.nodes(self.files, _LABELS)

    def label(self, name: str) -> LabelColumn:
        """Read a label column; UsageError names the existing ones."""
        key = self._existing(_LABELS, name)
        attributes = zarr_metadata.attributes_of(zarr_metadata.read_document(self.files, key))
        classes = tuple(zarr_metadata.attribute(self.files, key, "classes"))
        codes = zarr_metadata.read_array(self.files, key).astype(np.int16, copy=False)
        return LabelColumn(codes, classes, attributes.get("attrs", {}))

    def write_labels(
        self, name: str, codes: ArrayLike, classes: Sequence[str], attrs: dict[str, Any] | None = None
    ) -> None:
        """Write a label column, or replace one of the same name.

        Parameters
        ----------
        name : str
        codes : array-like of int (n,)
            Index of each tile's class in `classes`; -1 for none.
        classes : sequence of str
        attrs : dict, optional
            What else is known of the labels; anything JSON can hold.

        Raises
        ------
        StoreError
            When the codes are not one per tile, or outside `classes`.
        """
        codes = np.asarray(codes, np.int16)  # 32,767 classes are enough, and a million tiles take 2 MB
        if codes.shape != (self._n,) or (self._n and not -1 <= codes.min() <= codes.max() < len(classes)):
            last = len(classes) - 1
            raise StoreError(f"labels for {self.files.url} must be {self._n} codes from -1 to {last}, one per tile")
        column = ColumnLocation(self.files, _LABELS, name, self._n)
        with column.lock():
            self.files.remove(column.building_key)
            try:
                column.ensure_group()
                attributes = {"classes": list(classes), "none": -1, **({"attrs": attrs} if attrs else {})}
                zarr_metadata.write_array(self.files, column.building_key, codes, ("tile",), attributes)
                column.put_in_place()
            except BaseException:
                with suppress(OSError):
                    self.files.remove(column.building_key)
                raise

    @property
    def runs(self) -> list[str]:
        """Names of the runs whose predictions are in the store."""
        return zarr_metadata.nodes(self.files, _PREDICTIONS)

    def predictions(self, run: str) -> Predictions:
        """Read the predictions of a run; UsageError names the existing ones."""
        key = self._existing(_PREDICTIONS, run)
        classes, attrs = (zarr_metadata.attribute(self.files, key, name) for name in ("classes", "attrs"))
        # Only the columns that the run kept: logits and spread are optional.
        stored = {"probabilities", *zarr_metadata.nodes(self.files, key)} & set(_PREDICTED)
        columns = {name: zarr_metadata.read_array(self.files, f"{key}/{name}") for name in stored}
        return Predictions(classes=tuple(classes), attrs=attrs, **columns)

    def write_predictions(self, run: str, predictions: Predictions) -> None:
        """Write all predictions of a run at once, or replace those of a run of the same name.

        Raises
        ------
        StoreError
            When they are not one row per tile and one column per class.
        """
        columns, classes = predictions.columns, predictions.classes
        for values in columns.values():
            if len(values) != self._n or values.shape[-1] != len(classes):
                expected = (self._n, len(classes))
                raise StoreError(f"predictions for {self.files.url} must be {expected}, not {values.shape}")
        keeps = tuple("views" if name == "logits" and values.ndim == 3 else name for name, values in columns.items())
        location = ColumnLocation(self.files, _PREDICTIONS, run, self._n)
        with PredictionsWriter(location, classes, predictions.attrs, keeps, restart=True) as writer:
            for block in writer.blocks():
                writer.write_block(block, {name: values[block.start : block.stop] for name, values in columns.items()})
            writer.finish()

    def predictions_writer(
        self, run: str, classes: Sequence[str], attrs: dict[str, Any], keeps: tuple[str, ...] = ()
    ) -> PredictionsWriter:
        """Start the predictions of a run, or resume interrupted ones of the same classes and attributes.

        Parameters
        ----------
        run : str
        classes : sequence of str
        attrs : dict
            What else describes the run; anything JSON can hold.
        keeps : tuple of str
            What to keep with the probabilities: ``logits``, or ``views`` (logits of each view) and ``spread``.

        Raises
        ------
        StoreLockedError
            When another process is writing predictions of that run.
        """
        return PredictionsWriter(ColumnLocation(self.files, _PREDICTIONS, run, self._n), classes, attrs, keeps)

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders whose features are in the store."""
        return zarr_metadata.nodes(self.files, _FEATURES)

    def features(self, encoder: str) -> Features:
        """Read the features of an encoder; UsageError names the existing ones."""
        key = self._existing(_FEATURES, encoder)
        attrs = zarr_metadata.attributes_of(zarr_metadata.read_document(self.files, key)).get("attrs", {})
        return Features(zarr_metadata.read_array(self.files, key), attrs)

    def features_shape(self, encoder: str) -> tuple[int, ...]:
        """Shape of each tile's features, (d,) or (tokens, d), without reading them."""
        document = zarr_metadata.read_document(self.files, self._existing(_FEATURES, encoder))
        return tuple(document["shape"][1:])

    def features_writer(self, encoder: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> FeaturesWriter:
        """Start the features of an encoder, or resume interrupted ones of the same attributes.

        Each tile has a vector, `shape` (d,), or one per token, (tokens, d).

        Raises
        ------
        StoreLockedError
            When another process is writing features of that encoder.
        """
        return FeaturesWriter(ColumnLocation(self.files, _FEATURES, encoder, self._n), shape, attrs)

    @property
    def evidence_runs(self) -> list[str]:
        """Names of the slide-level runs whose evidence is in the store."""
        return zarr_metadata.nodes(self.files, _EVIDENCE)

    def evidence(self, run: str) -> Evidence:
        """Read the evidence of a slide-level run; UsageError names the existing ones."""
        key = self._existing(_EVIDENCE, run)
        classes, attrs = (zarr_metadata.attribute(self.files, key, name) for name in ("classes", "attrs"))
        methods = zarr_metadata.nodes(self.files, key)
        values = {name: zarr_metadata.read_array(self.files, f"{key}/{name}") for name in methods}
        return Evidence(values, tuple(classes), attrs)

    def write_evidence(self, run: str, evidence: Evidence) -> None:
        """Write the evidence of a slide-level run, or replace that of a run of the same name.

        Raises
        ------
        StoreError
            When it is not one row per tile and one column per class.
        """
        shape = (len(evidence.classes),)
        columns = {name: Column(shape, ("class",)) for name in evidence.methods}
        location = ColumnLocation(self.files, _EVIDENCE, run, self._n)
        attributes = {"classes": list(evidence.classes), "attrs": evidence.attrs}
        with ColumnWriter(location, columns, attributes, restart=True) as writer:
            for block in writer.blocks():
                part = {name: values[block.start : block.stop] for name, values in evidence.methods.items()}
                writer.write_block(block, part)
            writer.finish()

    @property
    def slide_predictions(self) -> list[str]:
        """Names of the slide-level runs whose prediction of this slide is in the store."""
        return zarr_metadata.nodes(self.files, _SLIDES)

    def slide_prediction(self, run: str) -> dict[str, Any]:
        """Read what a slide-level run predicts of this slide; UsageError names the existing runs."""
        return dict(zarr_metadata.attribute(self.files, self._existing(_SLIDES, run), "prediction"))

    def write_slide_prediction(self, run: str, prediction: dict[str, Any]) -> None:
        """Write what a slide-level run predicts of this slide, or replace it; anything JSON can hold."""
        check_name(_SLIDES, run)
        zarr_metadata.ensure_group(self.files, _SLIDES)
        zarr_metadata.write_group(self.files, f"{_SLIDES}/{run}", {"prediction": prediction})
