"""What in a model's settings would run code, or read files, that come with the model: refused, never asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from wsivit.errors import StoreError, UsageError

MODEL_LOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    ImportError,
    KeyError,
    TypeError,
    AttributeError,
    StrictDataclassError,
)
"""What transformers raises of settings that make no sense."""

_CODE = ("auto_map", "custom_pipelines")
_KERNELS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)
_FACTORY = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def refuse_code(config: Mapping[str, Any], where: str) -> None:
    """Refuse the settings of a model that bring or name code of their own, or other files of weights.

    Parameters
    ----------
    config : mapping
        What ``config.json`` says.
    where : str
        Folder or name of the model, for the message.

    Raises
    ------
    StoreError
        Naming each setting.
    """
    found = list(_dangers(config))
    if found:
        raise StoreError(
            f"{where}: refused, since the model's settings would have {'; '.join(found)}: wsivit runs no code and reads"
            " no pickle that comes with a model; take one of a kind that transformers or timm knows"
        )


def _dangers(config: Mapping[str, Any]) -> Iterator[str]:
    for name in _CODE:
        if config.get(name):
            yield f"code of its own run ({name})"
    for name in _KERNELS:
        value = config.get(name)
        if value is not None and "/" in str(value):
            yield f"code from {value} run ({name})"
    architecture = config.get("architecture")
    if architecture is not None and set(str(architecture)) & set(":/\\"):
        yield f"another model loaded (architecture {architecture!r})"
    arguments = config.get("model_args") or {}
    for name in _FACTORY:
        if name in arguments:
            yield f"other files read (model_args.{name})"


def pickles_there(folder: Path) -> str:
    """Half a sentence about weights that are there, but as a pickle; empty where there are none."""
    there = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    return f"; {', '.join(there)} may hold a pickle, which can run any program, and is not read" if there else ""


def safetensors_file(path: Path) -> Path:
    """Return a file of weights that is one; UsageError for a pickle, and for none at all."""
    if path.suffix != ".safetensors":
        raise UsageError(
            f"{path}: weights are read from .safetensors files only, since a pickle can run any program; "
            "convert one you trust with safetensors.torch.save_file(torch.load(path, weights_only=True), "
            "'model.safetensors')"
        )
    if not path.is_file():
        raise UsageError(f"{path}: no such file of weights")
    return path
