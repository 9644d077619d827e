"""Networks that make one logit vector of a bag of tiles, whatever their order and number.

In all of them the logit of a bag is a weighted sum over its tiles, ``sum_i weight_i * score_i``: a tile's part of it is
what the tile contributes. The weights sum to 1, so a bias is shared out with them and the parts sum to the logit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from wsivit.errors import UsageError

AggregatorName: TypeAlias = Literal["linear", "mean", "max", "abmil", "additive"]
AGGREGATORS: tuple[AggregatorName, ...] = get_args(AggregatorName)
Parts: TypeAlias = Callable[[], Iterable[Tensor]]
"""The tiles of a bag in parts (m, d), from the first each time it is called."""


class Aggregator(nn.Module, ABC):
    """A bag of tiles to logits.

    Parameters
    ----------
    dim : int
        Length of the vectors.
    outputs : int
        Number of logits.

    Attributes
    ----------
    mean, std : Tensor (d,)
        Vectors are standardised by these: those of the tiles that it learns from.
    streams : bool
        Whether a bag can be pooled in parts, exactly, whatever its size.
    explains : bool
        Whether a logit is exactly the sum of what the tiles contribute.
    """

    streams = True
    explains = True
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def standardise(self, tiles: Tensor) -> Tensor:
        """Return the vectors with the mean and deviation of the training tiles taken out."""
        return (tiles.float() - self.mean) / self.std

    @abstractmethod
    def forward(self, tiles: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits (b, outputs) of bags (b, n, d); `mask` (b, n) is true where there is a tile."""

    @abstractmethod
    def contributions(self, parts: Parts) -> Tensor:
        """Return what each tile of a bag adds to each logit, (n, outputs): they sum to the logits."""

    def pool(self, parts: Parts) -> Tensor:
        """Return the logits (outputs,) of one bag, read in parts."""
        return self.contributions(parts).sum(dim=0)

    def attention(self, parts: Parts) -> Tensor | None:
        """Return the weight of each tile, (n,), summing to 1; None where there are no weights to learn."""
        return None

    @abstractmethod
    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias that make the logits."""

    @torch.no_grad()
    def rescale(self, scale: float, offset: float) -> None:
        """Have the logits be what they were times a scale, plus an offset."""
        weight, bias = self.last_layer()
        weight.mul_(scale)
        bias.mul_(scale).add_(offset)


class MeanPool(Aggregator):
    """The mean of embedded tiles; without `hidden` of the vectors themselves, which makes it a linear model."""

    def __init__(self, dim: int, outputs: int, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__(dim, outputs)
        self.embed = _embedding(dim, hidden, dropout)
        self.head = nn.Linear(hidden or dim, outputs)

    def forward(self, tiles: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Aggregator`."""
        embedded = self.embed(self.standardise(tiles))
        if mask is None:
            return self.head(embedded.mean(dim=1))  # type: ignore[no-any-return]
        weight = mask.float() / mask.sum(dim=1, keepdim=True)
        return self.head((embedded * weight[..., None]).sum(dim=1))  # type: ignore[no-any-return]

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """See `Aggregator`."""
        return self.head.weight, self.head.bias

    def scores(self, tiles: Tensor) -> Tensor:
        """Return the logits (m, outputs) that each tile would have alone."""
        return self.head(self.embed(self.standardise(tiles)))  # type: ignore[no-any-return]

    def pool(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        total, count = torch.zeros(self.outputs, dtype=torch.float64), 0
        for part in parts():
            total += self.scores(part).double().sum(dim=0).cpu()
            count += len(part)
        return (total / max(count, 1)).float()

    def contributions(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        scores = torch.cat([self.scores(part) for part in parts()])
        return scores / len(scores)


class MaxPool(MeanPool):
    """The highest score of any tile, for each logit."""

    def forward(self, tiles: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Aggregator`."""
        scores = self.scores(tiles)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], -torch.inf)
        return scores.amax(dim=1)

    def pool(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        return torch.stack([self.scores(part).amax(dim=0) for part in parts()]).amax(dim=0)

    def contributions(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        scores = torch.cat([self.scores(part) for part in parts()])
        highest, place = scores.max(dim=0)
        return torch.zeros_like(scores).scatter_(0, place[None], highest[None])


class GatedAttention(Aggregator):
    """Attention-based pooling with gates (Ilse et al. 2018): ABMIL.

    Parameters
    ----------
    dim, outputs : int
    hidden : int
        Width of the embedding; 0 for none.
    attention : int
        Width of the attention.
    dropout : float
    """

    def __init__(self, dim: int, outputs: int, *, hidden: int = 256, attention: int = 128, dropout: float = 0.25):
        super().__init__(dim, outputs)
        width = hidden or dim
        self.embed = _embedding(dim, hidden, dropout)
        self.tanh = nn.Linear(width, attention)
        self.gate = nn.Linear(width, attention)
        self.weigh = nn.Linear(attention, 1, bias=False)
        self.head: nn.Module = nn.Linear(width, outputs)

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """See `Aggregator`."""
        assert isinstance(self.head, nn.Linear)
        return self.head.weight, self.head.bias

    def _embedded(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedded tiles (…, n, h) and their attention logits (…, n)."""
        embedded = self.embed(self.standardise(tiles))
        gated = torch.tanh(self.tanh(embedded)) * torch.sigmoid(self.gate(embedded))
        return embedded, self.weigh(gated)[..., 0]

    def forward(self, tiles: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Aggregator`."""
        embedded, energy = self._embedded(tiles)
        if mask is not None:
            energy = energy.masked_fill(~mask, -torch.inf)
        weight = torch.softmax(energy, dim=1)
        return self.head(torch.einsum("bn,bnh->bh", weight, embedded))  # type: ignore[no-any-return]

    def pool(self, parts: Parts) -> Tensor:
        """See `Aggregator`: a running softmax, which holds one vector whatever the number of tiles."""
        highest, weight, total = torch.tensor(-torch.inf), torch.tensor(0.0), None
        for part in parts():
            embedded, energy = self._embedded(part)
            top = torch.maximum(highest.to(energy), energy.max())
            scale, share = torch.exp(highest.to(energy) - top), torch.exp(energy - top)
            added = (share[:, None] * embedded).double().sum(dim=0)
            total = added if total is None else total * scale + added
            weight = weight.to(energy) * scale + share.double().sum()
            highest = top
        assert total is not None
        return self.head((total / weight).float()).cpu()  # type: ignore[no-any-return]

    def attention(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        return torch.softmax(torch.cat([self._embedded(part)[1] for part in parts()]), dim=0)

    def contributions(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        each = [self._embedded(part) for part in parts()]
        weight = torch.softmax(torch.cat([energy for _, energy in each]), dim=0)
        return weight[:, None] * torch.cat([self.head(embedded) for embedded, _ in each])


class AdditiveAttention(GatedAttention):
    """ABMIL whose tiles are scored one by one, after they are weighted, and summed (Javed et al. 2022)."""

    def __init__(self, dim: int, outputs: int, *, hidden: int = 256, attention: int = 128, dropout: float = 0.25):
        super().__init__(dim, outputs, hidden=hidden, attention=attention, dropout=dropout)
        width = hidden or dim
        # Without biases: a tile of no weight then adds nothing.
        last = nn.Linear(attention, outputs, bias=False)
        self.head = nn.Sequential(nn.Linear(width, attention, bias=False), nn.ReLU(), last)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """See `Aggregator`."""
        last = self.get_parameter("head.2.weight")
        return last, self.bias

    def forward(self, tiles: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Aggregator`."""
        embedded, energy = self._embedded(tiles)
        if mask is not None:
            energy = energy.masked_fill(~mask, -torch.inf)
        weight = torch.softmax(energy, dim=1)
        return self.head(weight[..., None] * embedded).sum(dim=1) + self.bias  # type: ignore[no-any-return]

    def _log_total(self, parts: Parts) -> Tensor:
        """Return the logarithm of the softmax's denominator, over all parts."""
        total = torch.tensor(-torch.inf)
        for part in parts():
            total = torch.logaddexp(total.to(self.bias), torch.logsumexp(self._embedded(part)[1], dim=0))
        return total

    def _part(self, part: Tensor, log_total: Tensor) -> Tensor:
        embedded, energy = self._embedded(part)
        weight = torch.exp(energy - log_total)
        return self.head(weight[:, None] * embedded) + weight[:, None] * self.bias  # type: ignore[no-any-return]

    def pool(self, parts: Parts) -> Tensor:
        """See `Aggregator`: two passes, the first for the weights."""
        log_total = self._log_total(parts)
        total = torch.stack([self._part(part, log_total).double().sum(dim=0) for part in parts()])
        return total.sum(dim=0).float().cpu()

    def contributions(self, parts: Parts) -> Tensor:
        """See `Aggregator`."""
        log_total = self._log_total(parts)
        return torch.cat([self._part(part, log_total) for part in parts()])


def _embedding(dim: int, hidden: int, dropout: float) -> nn.Module:
    if not hidden:
        return nn.Identity()
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))


def make_aggregator(name: str, dim: int, outputs: int, **widths: Any) -> Aggregator:
    """Make an aggregator by its name.

    Parameters
    ----------
    name : {"linear", "mean", "max", "abmil", "additive"}
    dim, outputs : int
    widths
        ``hidden``, ``attention``, ``dropout``; each takes those that it has.

    Raises
    ------
    UsageError
        There is no such aggregator.
    """
    if name == "linear":
        return MeanPool(dim, outputs)
    if name in ("mean", "max"):
        pooled = {key: value for key, value in widths.items() if key != "attention"}
        return (MaxPool if name == "max" else MeanPool)(dim, outputs, **pooled)
    attentive = {"abmil": GatedAttention, "additive": AdditiveAttention}
    if name not in attentive:
        raise UsageError(f"unknown aggregator {name!r}; there are {', '.join(AGGREGATORS)}")
    return attentive[name](dim, outputs, **widths)
