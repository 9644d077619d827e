"""What a model is and what its input must be, wherever it comes from. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsivit.errors import UsageError
from wsivit.models.run_folder import Preprocessing, RunMetadata

if TYPE_CHECKING:
    from wsivit.models.network import Network

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelSpec:
    """What a model is and what its input must be.

    Attributes
    ----------
    name : str
        What its predictions are called in a store.
    model : str
        The architecture or published name.
    classes : tuple of str
        In the order of the logits; empty for an encoder.
    preprocessing : Preprocessing
    fingerprint : str
        sha256 of the weights.
    mpp : float or None
        Scale of the tiles it is made for, microns per pixel; None where it does not say.
    tile_size : int or None
        Side of the tiles it is made for, in pixels; None where it does not say.
    temperature : float
        The logits are divided by it.
    label : str
        What the classes are a value of, if known.
    downscale : frozenset of str
        How slides were brought to the scale that it learned from; empty where that is not known.
    pooling : str
        What of an encoder's output is its vector; empty where its own library says.
    """

    name: str
    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    fingerprint: str
    mpp: float | None = None
    tile_size: int | None = None
    temperature: float = 1.0
    label: str = ""
    downscale: frozenset[str] = frozenset()
    pooling: str = ""

    @classmethod
    def of_run(cls, name: str, contract: RunMetadata) -> ModelSpec:
        """Make the card of a run."""
        return cls(
            name=name,
            model=contract.model,
            classes=contract.classes,
            preprocessing=contract.preprocessing,
            fingerprint=contract.model_fingerprint,
            mpp=contract.mpp,
            tile_size=contract.tile_size,
            temperature=contract.temperature,
            label=contract.label,
            downscale=frozenset(source["downscale"] for source in contract.data if source.get("downscale")),
        )


@dataclass(frozen=True)
class Model:
    """A model that can be loaded.

    Attributes
    ----------
    card : Card
    load : callable
        Gives the network, on the CPU.
    """

    spec: ModelSpec
    load: Callable[[], Network]


def finished_run(folder: PathLike) -> RunMetadata:
    """Read the contract of a run that is done.

    Raises
    ------
    StoreError
        The folder is no run.
    UsageError
        The training is not finished.
    """
    contract = RunMetadata.read(folder)
    if not contract.done:
        raise UsageError(f"{folder}: the training is not finished; run the same wsivit train command again to go on")
    return contract


def run_name(run: PathLike) -> str:
    """Return the name under which a run's predictions are kept: its folder's."""
    return Path(run).resolve().name
