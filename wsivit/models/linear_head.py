"""A linear head on the features of an encoder: all that a run of ``train --encoder`` has learned. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from wsivit.errors import StoreError
from wsivit.io import LocalFiles
from wsivit.models.weights import WEIGHTS


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear map from features to logits.

    Attributes
    ----------
    weight : ndarray of float32 (classes, d)
    bias : ndarray of float32 (classes,)
    encoder : str
        Fingerprint of the features that it takes; empty where it is part of a network.
    column : str
        What those features are called in a store.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    encoder: str = ""
    column: str = ""

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits, float32 (n, classes), of features (n, d); NaN stays NaN."""
        return np.asarray(features, np.float32) @ self.weight.T + self.bias

    def save(self, folder: Path) -> None:
        """Write the weights of a run folder."""
        LocalFiles(folder).write(WEIGHTS, [save({"weight": self.weight, "bias": self.bias})])

    @classmethod
    def read(cls, folder: Path, encoder: str, column: str) -> Self:
        """Read the weights of a run folder.

        Raises
        ------
        StoreError
            They are missing or damaged.
        """
        try:
            tensors = load_file(folder / WEIGHTS)
            return cls(tensors["weight"], tensors["bias"], encoder, column)
        except (OSError, SafetensorError, KeyError) as error:
            raise StoreError(f"{folder / WEIGHTS}: the head cannot be read: {error}") from error
