"""Where weights come from: a file, a folder, the hub; safetensors only. And what is said where they cannot be had."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsivit.errors import UsageError, WsivitError
from wsivit.models.safety import MODEL_LOAD_ERRORS, safetensors_file

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
PATIENCE = 10.0
"""Seconds after which it is said that the hub is waited for."""


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

    with hub_errors(name, scratch=scratch):
        return Path(hf_hub_download(settings["hf_hub_id"], WEIGHTS))


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
def hub_errors(name: str, *, scratch: bool = True) -> Iterator[None]:
    """Turn every way in which weights cannot be had into one error that says what can be done; say if it takes long."""
    waiting = threading.Timer(
        PATIENCE,
        lambda: _log.info("%s: still waiting for the hub; HF_HUB_OFFLINE=1 takes only what is on the disk", name),
    )
    waiting.daemon = True
    waiting.start()
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it tells of every attempt to reach the hub
    try:
        yield
    except WsivitError:
        raise
    except MODEL_LOAD_ERRORS as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        ways = [
            "run once with a network, the hub's cache (HF_HOME) then serves offline",
            "give a folder with config.json and model.safetensors as the model",
        ]
        if scratch:
            ways[1] += ", or a .safetensors file as the weights"
            ways.append("start from scratch (--no-pretrained)")
        told = "; ".join(f"({i}) {way}" for i, way in enumerate(ways, 1))
        raise UsageError(f"model {name}: its weights cannot be had ({first}). {len(ways)} ways: {told}") from error
    finally:
        waiting.cancel()
        hub.setLevel(level)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' bars and its report of the new head, which is what was asked for."""
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
