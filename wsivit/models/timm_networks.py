"""Networks of timm, by name and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from torch import nn

from wsivit.errors import UsageError


def timm_settings_of(name: str, image_size: int | None = None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the architecture of a timm name, its published settings, and the arguments that make it."""
    resolved = timm.models.resolve_model_input_args(name, {"img_size": image_size} if image_size else None)
    architecture, known = resolved.pop("model_name"), resolved.pop("pretrained_cfg")
    return architecture, known, {key: value for key, value in resolved.items() if key != "pretrained_model_args"}


def timm_network(architecture: str, settings: dict[str, Any], source: Path | None, **model_args: Any) -> nn.Module:
    """Make a timm network, with the weights of a file where one is given."""
    overlay = None if source is None else {"file": str(source), "source": "", "custom_load": False}
    try:
        return timm.create_model(
            architecture,
            pretrained=source is not None,
            pretrained_cfg=settings,
            pretrained_cfg_overlay=overlay,
            **model_args,
        )
    except (RuntimeError, ValueError, TypeError, AssertionError, SafetensorError, OSError) as error:
        what = architecture if source is None else f"{architecture} with the weights {source}"
        raise UsageError(f"model {what} cannot be made: {error}") from error
