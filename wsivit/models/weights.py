"""Which weights are read, from a file, a folder or the hub: no pickles, and no settings that would run code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from wsivit.errors import StoreError, UsageError

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"
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
"""What transformers raises for invalid settings."""

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
    """Reject settings of a model that bring or name code of their own, or other files of weights.

    Parameters
    ----------
    config : mapping
        The contents of ``config.json``.
    where : str
        Folder or name of the model, for the message.

    Raises
    ------
    StoreError
        Naming each setting.
    """
    dangers = [f"code of its own run ({name})" for name in _CODE if config.get(name)]
    dangers += [
        f"code from {config[name]} run ({name})"
        for name in _KERNELS
        if config.get(name) is not None and "/" in str(config[name])
    ]
    architecture = config.get("architecture")
    if architecture is not None and set(str(architecture)) & set(":/\\"):
        dangers.append(f"another model loaded (architecture {architecture!r})")
    arguments = config.get("model_args") or {}
    dangers += [f"other files read (model_args.{name})" for name in _FACTORY if name in arguments]
    if dangers:
        raise StoreError(
            f"{where}: refused, since the model's settings would have {'; '.join(dangers)}: wsivit runs no code and"
            " reads no pickle that comes with a model; take one of a kind that transformers or timm knows"
        )


def name_pickles(folder: Path) -> str:
    """Name the pickles in a folder without safetensors, for its error message; empty where there are none."""
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    return f"; {', '.join(pickles)} may hold a pickle, which can run any program, and is not read" if pickles else ""


def safetensors_file(path: Path) -> Path:
    """Return the path of a safetensors file; UsageError for another kind, or none."""
    if path.suffix != ".safetensors":
        raise UsageError(
            f"{path}: weights are read from .safetensors files only, since a pickle can run any program; "
            "convert one you trust with safetensors.torch.save_file(torch.load(path, weights_only=True), "
            "'model.safetensors')"
        )
    if not path.is_file():
        raise UsageError(f"{path}: no such file of weights")
    return path


def timm_weights(
    name: str, settings: dict[str, Any], weights: str | os.PathLike[str] | None, *, scratch: bool = True
) -> Path:
    """Return the safetensors file that goes with a timm name, from disk or from the hub."""
    if weights is not None:
        return safetensors_file(Path(weights))
    if name.startswith("local-dir:"):
        return safetensors_file(Path(name.removeprefix("local-dir:")) / WEIGHTS)
    if not settings.get("hf_hub_id"):
        raise UsageError(f"model {name}: timm has no published weights for it; start from scratch (--no-pretrained)")
    from huggingface_hub import hf_hub_download

    from wsivit.models.hub import hub_errors

    with hub_errors(name, scratch=scratch):
        return Path(hf_hub_download(settings["hf_hub_id"], WEIGHTS))


def weights_fingerprint(folder: str | os.PathLike[str]) -> str:
    """Return ``sha256:<hex>`` of the weights in a folder; StoreError where there are none."""
    try:
        with (Path(folder) / WEIGHTS).open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{folder}: its {WEIGHTS} cannot be read: {error}") from error


def non_finite(network: nn.Module) -> str:
    """Say which weights of a network are NaN or infinite; empty where none are."""
    # A buffer may be infinite on purpose (a mask of attention), but a batch norm's statistics may not.
    tensors = [*network.named_parameters(), *network.named_buffers()]
    parameters = {name for name, _ in network.named_parameters()}
    bad = [
        name
        for name, value in tensors
        if value.is_floating_point()
        and not (
            value.isfinite() if name in parameters or name.endswith(("running_mean", "running_var")) else ~value.isnan()
        ).all()
    ]
    if not bad:
        return ""
    return f"its weights are damaged, {len(bad)} of {len(tensors)} tensors hold NaN or infinity (the first is {bad[0]})"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' bars and its report of the new head, which is intended."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
