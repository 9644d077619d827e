"""Networks of all libraries as one: pictures in, logits out; or, without their last layer, features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wsivit.errors import UsageError


class Network(nn.Module):
    """A network that maps pictures, float (n, 3, s, s), to logits (n, classes).

    Parameters
    ----------
    model : nn.Module
        Takes pictures; gives logits, or something that has them as ``logits``.
    head : str or None
        Name of its last layer; "" where it has none and gives features; None where it is not known.
    """

    def __init__(self, model: nn.Module, head: str | None) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        made: Any = self.model(pictures)
        logits: Tensor = made if isinstance(made, Tensor) else made.logits
        return logits.flatten(1)

    def without_head(self) -> Network:
        """Return the network with its last layer taken off, so that it gives what that saw.

        Raises
        ------
        UsageError
            The last layer is not known.
        """
        if self.head is None:
            raise UsageError("features need the model's last layer, which cannot be told of a TorchScript program")
        if self.head:
            parent, _, name = self.head.rpartition(".")
            setattr(self.model.get_submodule(parent), name, nn.Identity())
        return Network(self.model, "")

    @property
    def convolves(self) -> bool:
        """Whether it is a CNN, which is faster with channels last; a ViT has one convolution, which cuts patches."""
        return sum(isinstance(module, nn.Conv2d) for module in self.modules()) > 3


def of_classifier(model: Any) -> Network:
    """Make a network of a transformers image classifier; a timm one is taken out of its wrapper."""
    if model.config.model_type == "timm_wrapper":
        return of_timm(model.timm_model)
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    return Network(model, heads[-1] if heads else None)


def of_timm(model: Any) -> Network:
    """Make a network of a timm one."""
    last = model.get_classifier()
    names = [name for name, module in model.named_modules() if module is last and isinstance(module, nn.Linear)]
    return Network(model, names[0] if names else "" if isinstance(last, nn.Identity) else None)


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type to calculate in; None for float32."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
