"""TorchScript with a ``config.json`` as the WSInfer model zoo has it. Such an archive is a program."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsivit.errors import StoreError, UsageError
from wsivit.models.model_spec import Model, ModelSpec, run_name
from wsivit.models.run_folder import Preprocessing

if TYPE_CHECKING:
    from wsivit.models.network import Network

CONFIG, PROGRAM = "config.json", "torchscript_model.pt"


def open_zoo(folder: Path, *, trusted: bool) -> Model:
    """Read a folder with ``config.json`` and ``torchscript_model.pt``.

    Raises
    ------
    UsageError
        It is not `trusted`.
    StoreError
        The configuration is damaged, or asks for something that is not known.
    """
    if not trusted:
        raise UsageError(
            f"{folder}: a TorchScript model is a program, which could do anything; if you know who made it, "
            "run it with --trust-torchscript"
        )
    with (folder / PROGRAM).open("rb") as file:
        fingerprint = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    spec = _card(folder, fingerprint)
    return Model(spec, lambda: _load(folder, spec))


def _card(folder: Path, fingerprint: str) -> ModelSpec:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        classes, side = tuple(map(str, config["class_names"])), int(config["patch_size_pixels"])
        return ModelSpec(
            name=run_name(folder),
            model=str(config.get("architecture") or config.get("name") or "torchscript"),
            classes=classes,
            preprocessing=_preprocessing(config["transform"], side),
            fingerprint=fingerprint,
            mpp=float(config["spacing_um_px"]),
            tile_size=side,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: not the description of a model as the WSInfer zoo has it: {error!r}") from error


def _preprocessing(steps: list[dict[str, Any]], side: int) -> Preprocessing:
    """Read the list of transforms: resize, to tensor, normalise."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    for step in steps:
        given = step.get("arguments") or {}
        if step["name"] == "Resize":
            size = given["size"]
            side = int(size if isinstance(size, int) else size[0])
        elif step["name"] == "Normalize":
            mean, std = tuple(given["mean"]), tuple(given["std"])
        elif step["name"] != "ToTensor":
            raise StoreError(f"transform {step['name']!r} is not known; Resize, ToTensor and Normalize are")
    return Preprocessing(side, mean, std)


def _load(folder: Path, spec: ModelSpec) -> Network:
    import torch

    from wsivit.models.network import Network

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # old as it is, it is what people share
            program = torch.jit.load(folder / PROGRAM, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise StoreError(f"{folder / PROGRAM}: cannot be loaded: {str(error).splitlines()[0]}") from error
    return Network(program, None)
