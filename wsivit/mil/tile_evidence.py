"""What each tile adds to the logit of its slide, by several methods."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import torch

from wsivit.errors import UsageError
from wsivit.mil.aggregators import Aggregator
from wsivit.mil.bags import Tiles, Vectors
from wsivit.mil.member import tensor_parts

Method: TypeAlias = Literal["contribution", "attention", "single", "gradients"]
METHODS: tuple[Method, ...] = get_args(Method)
_IG_STEPS = 16
_IG_TILES = 20_000
"""Integrated gradients hold all tiles of a bag at a time: of larger bags they are not computed."""


def methods_of(network: Aggregator) -> tuple[Method, ...]:
    """Return the methods that say something of a network."""
    attends = network.attention(lambda: [network.mean[None]]) is not None
    return tuple(method for method in METHODS if method != "attention" or attends)


def tile_evidence(network: Aggregator, tiles: Tiles, method: Method) -> Vectors | None:
    """Return the evidence of each tile of a slide, float32 (n, outputs).

    ``contribution``: what the tile adds, exactly; the sum over the tiles is the logit. ``attention``: the weight of the
    tile, the same for all outputs. ``single``: the logit of a slide of this tile alone. ``gradients``: integrated
    gradients from a slide of average tiles; None for a bag too large for them.

    Raises
    ------
    UsageError
        The network has no attention, or there is no such method.
    """
    parts = tensor_parts(tiles, network.mean.device)
    if method == "gradients":
        return _integrated_gradients(network, tiles)
    with torch.no_grad():
        if method == "contribution":
            values = network.contributions(parts)
        elif method == "attention":
            weights = network.attention(parts)
            if weights is None:
                raise UsageError(f"{type(network).__name__} has no attention to show")
            values = weights[:, None].expand(-1, network.outputs)
        elif method == "single":
            values = torch.cat([network(part[:, None]) for part in parts()])
        else:
            raise UsageError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    return values.float().cpu().numpy()


def _integrated_gradients(network: Aggregator, tiles: Tiles) -> Vectors | None:
    if len(tiles) > _IG_TILES:
        return None
    bag = torch.from_numpy(np.array(tiles)).float()
    difference = bag - network.mean
    total = torch.zeros(len(bag), network.outputs)
    for step in range(_IG_STEPS):
        # The middle of each step: twice as exact as either end.
        point = (network.mean + (step + 0.5) / _IG_STEPS * difference).requires_grad_()
        logits = network(point[None])[0]
        for output in range(network.outputs):
            keep = output < network.outputs - 1
            (gradient,) = torch.autograd.grad(logits[output], point, retain_graph=keep)
            total[:, output] += (gradient * difference).sum(dim=1) / _IG_STEPS
    return total.numpy()
