"""What is added to a store after its tiles: labels, predictions, features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wsivit.io import Files
from wsivit.store import features, predictions
from wsivit.store import zarr_metadata as layout
from wsivit.store.column_writer import ColumnLocation
from wsivit.store.columns import LabelColumn, cleanup_column, read_labels, save_labels
from wsivit.store.features import Features, FeaturesWriter, read_features
from wsivit.store.predictions import Kept, Predictions, PredictionsWriter, read_predictions, save_predictions


class AnnotationColumns:
    """The part of a `TileStore` that holds one value or vector per tile, made by people or models."""

    files: Files
    _n: int

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        return layout.nodes(self.files, "labels")

    def label(self, name: str) -> LabelColumn:
        """Read a label column; UsageError names the ones that are there."""
        return read_labels(self.files, name)

    def write_labels(self, name: str, codes: ArrayLike, classes: tuple[str, ...] | list[str]) -> None:
        """Write a label column: codes (n,) into `classes`, -1 for none. One of the same name is replaced."""
        save_labels(self.files, name, LabelColumn(np.asarray(codes, np.int16), tuple(classes)), self._n)

    @property
    def runs(self) -> list[str]:
        """Names of the runs whose predictions are here."""
        return layout.nodes(self.files, predictions.KIND)

    def predictions(self, run: str) -> Predictions:
        """Read the predictions of a run; UsageError names the ones that are there."""
        return read_predictions(self.files, run)

    def write_predictions(self, run: str, predictions: Predictions) -> None:
        """Write the predictions of a run whole. Those of a run of the same name are replaced."""
        save_predictions(self.files, run, predictions, self._n)

    def predictions_writer(
        self, run: str, classes: Sequence[str], attrs: dict[str, Any], keeps: Kept = ()
    ) -> PredictionsWriter:
        """Begin the predictions of a run, or go on with ones of the same classes and attributes that were broken off.

        `keeps` names what goes with the probabilities: ``logits``, or ``views`` (logits of each view) and ``spread``.

        Raises
        ------
        StoreLockedError
            When another process is writing predictions of that run.
        """
        return PredictionsWriter(ColumnLocation(self.files, predictions.KIND, run, self._n), classes, attrs, keeps)

    def cleanup(self, kind: str, name: str) -> None:
        """Clear away what a killed writer of ``<kind>/<name>``, which is there, may have left beside it."""
        cleanup_column(self.files, kind, name)

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders whose features are here."""
        return layout.nodes(self.files, features.KIND)

    def features(self, encoder: str) -> Features:
        """Read the features of an encoder; UsageError names the ones that are there."""
        return read_features(self.files, encoder)

    def features_writer(self, encoder: str, size: int, attrs: dict[str, Any]) -> FeaturesWriter:
        """Begin the features of an encoder, `size` numbers per tile, or go on with ones that were broken off.

        Raises
        ------
        StoreLockedError
            When another process is writing features of that encoder.
        """
        return FeaturesWriter(ColumnLocation(self.files, features.KIND, encoder, self._n), size, attrs)
