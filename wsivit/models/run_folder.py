"""The run folder and its metadata: what a model was made for, and what its input must be. No torch.

A run folder is a model folder (``config.json``, ``model.safetensors``) with ``wsivit.json`` next to it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from wsivit.errors import StoreError, UsageError
from wsivit.models.run_contract import CONTRACT, Contract

if TYPE_CHECKING:
    from wsivit.models.linear_head import LinearHead
    from wsivit.models.network import Network

PathLike = str | os.PathLike[str]

FORMAT = 3
READABLE = (1, 2, 3)
"""Formats that can be read: 1 had fewer fields of the preprocessing; of 1 and 2 the part that chose was reported."""
TILE, PATIENT = "tile", "patient"
"""Levels of a run: what its model predicts."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest", "lanczos", "none"]
Crop: TypeAlias = Literal["none", "floor", "round"]


@dataclass(frozen=True)
class Preprocessing:
    """How tiles become the model's input: resized, the middle cut out, channels ordered, values scaled and normalised.

    Parameters
    ----------
    image_size : int
        Side of the model's input, in pixels.
    mean, std : tuple of float
        Per channel of the input, of values that the scale was applied to.
    scale : float
        Byte values (0 to 255) are multiplied by it.
    interpolation : {"bilinear", "bicubic", "nearest", "lanczos", "none"}
        How tiles are resized, antialiased but for ``nearest``; ``none``: a tile is taken as it is.
    resize : int, optional
        Side that tiles are resized to, in pixels. Default: `image_size`.
    crop : {"none", "floor", "round"}
        Cut the middle out of a resized tile that is larger than the input, and give a smaller one a black margin. Of an
        odd margin, transformers leaves the smaller half to the left and above (``floor``), timm the even one.
    channels : {"RGB", "BGR", "L"}
        Order of the input's channels; ``L`` is one grey channel (ITU-R BT.601).

    Raises
    ------
    UsageError
        Means and deviations are not one per channel, not finite, or a deviation is 0.
    """

    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255
    interpolation: Interpolation = "bilinear"
    resize: int | None = None
    crop: Crop = "none"
    channels: Literal["RGB", "BGR", "L"] = "RGB"

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channel_count:
            raise UsageError(
                f"mean {self.mean} and std {self.std} are not one number for each channel, {self.channels}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std, self.scale))) or 0 in (*self.std, self.scale):
            raise UsageError(f"mean {self.mean}, std {self.std} or scale {self.scale} make no finite input of a tile")

    @property
    def channel_count(self) -> int:
        """How many channels the input has."""
        return 1 if self.channels == "L" else 3

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the preprocessing of a run folder; format 1 has size, mean and deviation only, the rest was fixed."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def of_whole_tile(self, image_size: int | None = None) -> Self:
        """Return the same for all of each tile, resized to the input: what a new head learns from loses no margin."""
        how: Interpolation = "bilinear" if self.interpolation == "none" else self.interpolation
        return replace(self, image_size=image_size or self.image_size, interpolation=how, resize=None, crop="none")


@dataclass(frozen=True)
class RunMetadata(Contract):
    """What a run promises and demands.

    Attributes
    ----------
    model : str
        The name the model was made from.
    classes : tuple of str
        In the order of the probabilities.
    label : str
        What the classes are a value of.
    mpp : float or None
        Scale of the tiles, microns per pixel; None for pictures without one.
    tile_size : int
        Side of the tiles, in pixels.
    preprocessing : Preprocessing
    data : list of dict
        Per source: id, fingerprint, pictures per side of the split.
    split : dict
        How the parts were chosen, and what the audit had to say.
    options : dict
        Everything that was asked for.
    model_fingerprint : str
        sha256 of the weights; empty until the run is done.
    temperature : float
        The logits are divided by it.
    figures : dict of dict
        ``test``: of the part that chose nothing; ``tune``: of the part that chose epoch and temperature, so they are
        too good; ``costs``: time and memory.
    probe : dict
        Of a linear head on frozen features: how it was fitted, whether it is what was ``kept``, and its ``tune`` and
        ``test`` figures. Empty where nothing was pretrained.
    encoder : dict
        Of a run that is a head alone: ``name``, ``column``, ``fingerprint`` and ``pooling`` of the features that it
        learned from, and ``weights``, the file that was given. Empty for others.
    versions, command
        Of the software; how it was called.
    """

    OUTCOME: ClassVar = frozenset({"model_fingerprint", "temperature", "figures", "probe"})

    model: str
    classes: tuple[str, ...]
    label: str
    mpp: float | None
    tile_size: int
    preprocessing: Preprocessing
    data: list[dict[str, Any]]
    split: dict[str, Any]
    options: dict[str, Any]
    model_fingerprint: str = ""
    temperature: float = 1.0
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def read(cls, folder: PathLike) -> Self:
        """Read the contract of a run folder.

        Raises
        ------
        StoreError
            The folder is no run, or of another version.
        """
        path = Path(folder) / CONTRACT
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{folder}: not a run folder: there is no {CONTRACT}; wsivit train makes one") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read: {error}") from error
        if isinstance(values, dict) and values.get("level", TILE) != TILE:
            raise UsageError(f"{folder} is a slide-level run; this needs a tile classifier (wsivit train)")
        version = values.get("format") if isinstance(values, dict) else None
        if version not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise StoreError(f"{path}: run format {version!r}, this wsivit reads {known}: use the wsivit that made it")
        if version < 3:
            measured = values.pop("validation", {})
            costs = {name: measured.pop(name) for name in ("seconds_per_epoch", "memory_mb") if name in measured}
            values |= {"figures": {"tune": measured, "costs": costs} if measured else {}, "probe": {}, "encoder": {}}
        missing = {f.name for f in fields(cls)} ^ set(values)
        if missing:
            raise StoreError(f"{path}: damaged: {', '.join(sorted(missing))} missing or unknown")
        try:
            preprocessing = Preprocessing.from_dict(values["preprocessing"])
        except (TypeError, KeyError, UsageError) as error:
            raise StoreError(f"{path}: damaged: preprocessing: {error}") from error
        typed = {"classes": tuple(values["classes"]), "preprocessing": preprocessing, "format": FORMAT}
        return cls(**{**values, **typed})


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
    weights_sha256 : str
        Of the file with an encoder's weights, as it was published or given; empty for other models.
    weights_registered : bool
        Whether the registry of encoders lists that file.
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
    weights_sha256: str = ""
    weights_registered: bool = False

    @classmethod
    def of_run(cls, name: str, contract: RunMetadata) -> ModelSpec:
        """Describe the model of a run."""
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
    spec : ModelSpec
    load : callable
        Returns the network, on the CPU.
    head : LinearHead, optional
        Where that is all that was trained: it takes features that a store has.
    """

    spec: ModelSpec
    load: Callable[[], Network]
    head: LinearHead | None = None


def run_level(folder: PathLike) -> str:
    """Return what the model of a run folder predicts, ``tile`` or ``patient``; ``tile`` for all that is no run."""
    try:
        values = json.loads((Path(folder) / CONTRACT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return TILE
    return str(values.get("level", TILE)) if isinstance(values, dict) else TILE


def finished_run(folder: PathLike) -> RunMetadata:
    """Read the metadata of a finished run.

    Raises
    ------
    StoreError
        The folder is no run.
    UsageError
        The training is not finished.
    """
    contract = RunMetadata.read(folder)
    if not contract.done:
        raise UsageError(f"{folder}: the training is not finished; run the same wsivit train command again")
    return contract


def run_name(run: PathLike) -> str:
    """Return the name under which a run's predictions are kept: its folder's."""
    return Path(run).resolve().name
