"""AdamW: weight decay for matrices alone, and slower steps for the early layers of a transformer."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from wsivit.models import Classifier

LAYER = re.compile(r"\blayers?\.(\d+)\.")
NO_DECAY = ("pos_embed", "position_embeddings", "cls_token", "dist_token", "reg_token", "relative_position_bias_table")


def make_optimizer(classifier: Classifier, lr: float, weight_decay: float, layer_decay: float) -> torch.optim.AdamW:
    """Make AdamW for the parameters that are trained.

    Parameters
    ----------
    classifier : Classifier
    lr : float
        Of the head.
    weight_decay : float
        Of matrices and kernels; biases, norms and position embeddings have none.
    layer_decay : float
        Each layer learns at this fraction of the rate of the one after it; 1 treats all alike.
    """
    # timm's `param_groups_layer_decay` groups timm's networks alike, but cannot number the layers of transformers.
    depths = layer_depths(classifier) if layer_decay < 1 else {}
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in classifier.model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depths.get(name, top)
        decays = parameter.ndim > 1 and not name.endswith(NO_DECAY)
        group = groups.setdefault((depth, decays), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        group["lr"] = lr * layer_decay ** (top - depth)
        group["params"].append(parameter)
    # The head comes first: its rate is the one that is logged.
    return torch.optim.AdamW([groups[key] for key in sorted(groups, reverse=True)], lr=lr)


def layer_depths(classifier: Classifier) -> dict[str, int]:
    """Number the layer of each parameter, 0 for the embeddings, the head last."""
    if classifier.is_timm:
        from timm.models import group_parameters

        network: Any = classifier.model.timm_model
        depths = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        return {f"timm_model.{name}": int(depth) for name, depth in depths.items()}
    names = [name for name, _ in classifier.model.named_parameters()]
    numbers = {name: int(match[1]) + 1 for name in names if (match := LAYER.search(name))}
    top = max(numbers.values(), default=0) + 1
    return {name: numbers.get(name, 0 if "embeddings" in name else top) for name in names}


def usual_layer_decay(classifier: Classifier) -> float:
    """Return the layer decay to fine-tune with: off for CNNs."""
    return 0.75 if has_attention(classifier.model) else 1.0


def has_attention(model: nn.Module) -> bool:
    """Whether a model is a transformer."""
    return any("attention" in type(module).__name__.lower() for module in model.modules())
