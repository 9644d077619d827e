"""Aggregators: equal to their formulas, blind to order and padding, exact in parts, and explained by their tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from wsivit.errors import UsageError
from wsivit.mil.aggregators import AGGREGATORS, Aggregator, make_aggregator

pytestmark = pytest.mark.usefixtures("one_thread")
DIM = 6


def make(name: str, outputs: int = 3) -> Aggregator:
    torch.manual_seed(1)
    network = make_aggregator(name, DIM, outputs, hidden=5, attention=4, dropout=0.25).eval()
    network.mean, network.std = torch.randn(DIM), torch.rand(DIM) + 0.5
    for parameter in network.parameters():  # biases too, which start at 0
        torch.nn.init.normal_(parameter)
    return network


def bag(n: int = 37, seed: int = 0) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


def in_parts(tiles: Tensor, size: int) -> Callable[[], Iterable[Tensor]]:
    return lambda: tiles.split(size)


def test_gated_attention_is_its_formula() -> None:
    network, tiles = make("abmil"), bag()
    values = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    x = (tiles.double().numpy() - values["mean"]) / values["std"]
    h = np.maximum(x @ values["embed.0.weight"].T + values["embed.0.bias"], 0)
    tanh = np.tanh(h @ values["tanh.weight"].T + values["tanh.bias"])
    gate = 1 / (1 + np.exp(-(h @ values["gate.weight"].T + values["gate.bias"])))
    energy = np.exp((tanh * gate) @ values["weigh.weight"][0])
    weight = energy / energy.sum()
    logits = values["head.weight"] @ (weight @ h) + values["head.bias"]
    np.testing.assert_allclose(network(tiles[None])[0].detach(), logits, atol=1e-5)
    attention = network.attention(lambda: [tiles])
    assert attention is not None
    np.testing.assert_allclose(attention.detach(), weight, atol=1e-6)


def test_linear_and_max_are_their_formulas() -> None:
    tiles = bag()
    linear, highest = make("linear"), make("max")
    x = (tiles - linear.mean) / linear.std
    weight, bias = linear.last_layer()
    torch.testing.assert_close(linear(tiles[None])[0], x.mean(0) @ weight.T + bias)
    alone = torch.stack([highest(tile[None, None])[0] for tile in tiles])
    torch.testing.assert_close(highest(tiles[None])[0], alone.amax(0))


@pytest.mark.parametrize("name", AGGREGATORS)
@torch.no_grad()
def test_order_padding_and_parts_make_no_difference(name: str) -> None:
    network, tiles = make(name), bag()
    expected = network(tiles[None])[0]
    torch.testing.assert_close(network(tiles[torch.randperm(len(tiles))][None])[0], expected, atol=1e-5, rtol=1e-5)
    padded = torch.cat([tiles, torch.full((9, DIM), 1e3)])[None].repeat(2, 1, 1)
    mask = torch.arange(len(tiles) + 9)[None].repeat(2, 1) < torch.tensor([[len(tiles)], [4]])
    masked = network(padded, mask)
    torch.testing.assert_close(masked[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masked[1], network(tiles[None, :4])[0], atol=1e-5, rtol=1e-5)
    for size in (1, 8, 100):
        torch.testing.assert_close(network.pool(in_parts(tiles, size)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_parts_with_extreme_attention_stay_finite() -> None:
    network, tiles = make("abmil"), bag(400)
    network.get_parameter("weigh.weight").mul_(1e4)
    pooled = network.pool(in_parts(tiles, 7))
    assert torch.isfinite(pooled).all()
    torch.testing.assert_close(pooled, network(tiles[None])[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", AGGREGATORS)
@torch.no_grad()
def test_contributions_sum_to_the_logits(name: str) -> None:
    network, tiles = make(name), bag()
    parts = network.contributions(in_parts(tiles, 10))
    assert parts.shape == (len(tiles), 3)
    torch.testing.assert_close(parts.sum(0), network(tiles[None])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", AGGREGATORS)
@torch.no_grad()
def test_rescaled_logits(name: str) -> None:
    network, tiles = make(name), bag()
    before = network(tiles[None])
    network.rescale(3.0, -2.0)
    torch.testing.assert_close(network(tiles[None]), before * 3 - 2, atol=1e-4, rtol=1e-4)


def test_unknown_aggregator_is_named() -> None:
    with pytest.raises(UsageError, match="unknown aggregator 'dsmil'; there are linear"):
        make_aggregator("dsmil", DIM, 1)
