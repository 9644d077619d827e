"""What is added to a store after its tiles: labels, predictions, features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wsivit.errors import StoreError
from wsivit.io import Files
from wsivit.store import features, predictions, zarr_metadata
from wsivit.store.columns import ColumnLocation, LabelColumn, find_column
from wsivit.store.features import Features, FeaturesWriter
from wsivit.store.predictions import Kept, Predictions, PredictionsWriter, read_predictions, write_predictions

_LABELS = "labels"


class AnnotationColumns:
    """The part of a `TileStore` that holds one value or vector per tile, made by people or models."""

    files: Files
    _n: int

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        return zarr_metadata.nodes(self.files, _LABELS)

    def label(self, name: str) -> LabelColumn:
        """Read a label column; UsageError names the existing ones."""
        key = find_column(self.files, _LABELS, name)
        classes = tuple(zarr_metadata.attribute(self.files, key, "classes"))
        return LabelColumn(zarr_metadata.read_array(self.files, key).astype(np.int16, copy=False), classes)

    def write_labels(self, name: str, codes: ArrayLike, classes: Sequence[str]) -> None:
        """Write a label column, or replace one of the same name.

        Parameters
        ----------
        name : str
        codes : array-like of int (n,)
            Index of each tile's class in `classes`; -1 for none.
        classes : sequence of str

        Raises
        ------
        StoreError
            When the codes are not one per tile, or outside `classes`.
        """
        codes = np.asarray(codes, np.int16)
        if codes.shape != (self._n,) or (self._n and not -1 <= codes.min() <= codes.max() < len(classes)):
            last = len(classes) - 1
            raise StoreError(f"labels for {self.files.url} must be {self._n} codes from -1 to {last}, one per tile")
        column = ColumnLocation(self.files, _LABELS, name, self._n)
        with column.lock():
            self.files.remove(column.building_key)
            try:
                column.ensure_group()
                attributes = {"classes": list(classes), "none": -1}
                zarr_metadata.write_array(self.files, column.building_key, codes, ("tile",), attributes)
                column.put_in_place()
            except BaseException:
                with suppress(OSError):
                    self.files.remove(column.building_key)
                raise

    @property
    def runs(self) -> list[str]:
        """Names of the runs whose predictions are in the store."""
        return zarr_metadata.nodes(self.files, predictions.KIND)

    def predictions(self, run: str) -> Predictions:
        """Read the predictions of a run; UsageError names the existing ones."""
        return read_predictions(self.files, run)

    def write_predictions(self, run: str, predictions: Predictions) -> None:
        """Write all predictions of a run, or replace those of a run of the same name."""
        write_predictions(ColumnLocation(self.files, "predictions", run, self._n), predictions)

    def predictions_writer(
        self, run: str, classes: Sequence[str], attrs: dict[str, Any], keeps: Kept = ()
    ) -> PredictionsWriter:
        """Start the predictions of a run, or resume interrupted ones of the same classes and attributes.

        Parameters
        ----------
        run : str
        classes : sequence of str
        attrs : dict
            What else describes the run; anything JSON can hold.
        keeps : tuple of str
            What is kept with the probabilities: ``logits``, or ``views`` (logits of each view) and ``spread``.

        Raises
        ------
        StoreLockedError
            When another process is writing predictions of that run.
        """
        return PredictionsWriter(ColumnLocation(self.files, predictions.KIND, run, self._n), classes, attrs, keeps)

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders whose features are in the store."""
        return zarr_metadata.nodes(self.files, features.KIND)

    def features(self, encoder: str) -> Features:
        """Read the features of an encoder; UsageError names the existing ones."""
        key = find_column(self.files, features.KIND, encoder)
        attrs = zarr_metadata.attributes_of(zarr_metadata.read_document(self.files, key)).get("attrs", {})
        return Features(zarr_metadata.read_array(self.files, key), attrs)

    def features_writer(self, encoder: str, size: int, attrs: dict[str, Any]) -> FeaturesWriter:
        """Start the features of an encoder, `size` numbers per tile, or resume interrupted ones of the same attributes.

        Raises
        ------
        StoreLockedError
            When another process is writing features of that encoder.
        """
        return FeaturesWriter(ColumnLocation(self.files, features.KIND, encoder, self._n), size, attrs)

    def cleanup(self, kind: str, name: str) -> None:
        """Remove what a killed writer of the existing column ``<kind>/<name>`` may have left."""
        ColumnLocation(self.files, kind, name, self._n).cleanup()
