"""Networks of the registry's encoders, one block deep, with random weights, made by their own libraries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn

from wsivit.models import Encoder

ARGUMENTS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}


def shallow(e: Encoder) -> Encoder:
    """The same network, one block deep."""
    if e.library == "transformers":
        return replace(e, arguments=e.arguments | {"num_hidden_layers": 1})
    return replace(e, arguments=e.arguments | ({"depth": 1} if e.architecture.startswith("vit") else {}))


def pooled(tokens: Tensor, pooling: str, prefix: int) -> Tensor:
    cls, mean = tokens[:, 0], tokens[:, prefix:].mean(1)
    return {"cls": cls, "mean": mean, "cls+mean": torch.cat([cls, mean], 1)}[pooling]


def timm_network(e: Encoder) -> Any:
    if e.name == "ctranspath":
        return None
    known: Any = {k: ARGUMENTS.get(v, v) if isinstance(v, str) else v for k, v in e.arguments.items()}
    return timm.create_model(e.architecture, num_classes=0, **known).eval()


def draw(network: nn.Module) -> None:
    """Give every tensor a random value: what a library leaves at zero or one would hide a mistake."""
    generator = torch.Generator().manual_seed(7)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05 + (1 if "running_var" in name else 0.01))
