"""One member of an ensemble: trained on the inner patients of a fold, without a handle on any other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wsivit.errors import StoreError, UsageError
from wsivit.io import LocalFiles
from wsivit.mil.aggregators import Aggregator, make_aggregator
from wsivit.mil.bags import PatientBags, Tiles, Vectors, chunks, window
from wsivit.mil.linear_model import STRENGTHS, LinearFit
from wsivit.mil.nested_folds import Fold, Places
from wsivit.mil.objective import Floats, calibrate, loss
from wsivit.mil.options import TrainSlidesOptions
from wsivit.mil.patients import PatientCohort, TaskKind
from wsivit.mil.survival import cox_loss_tensor

_WIDTHS = ("hidden", "dropout")


@dataclass(frozen=True)
class InnerPatients:
    """All that the trainer of a member sees: the inner patients of its fold.

    Attributes
    ----------
    kind : str
        Of the task.
    outputs : int
    bags : tuple of tuple of float16 (n, d)
        Of each patient, of each slide; empty where the aggregator needs means only.
    means : float32 (n, d)
    targets, events : ndarray (n,)
    train, tune : int64
        Places of those it learns from, and of those that choose.
    """

    kind: TaskKind
    outputs: int
    bags: tuple[tuple[Tiles, ...], ...]
    means: Vectors
    targets: Floats
    events: NDArray[np.int64]
    train: Places
    tune: Places

    @classmethod
    def of_fold(cls, cohort: PatientCohort, bags: PatientBags, fold: Fold, outputs: int) -> InnerPatients:
        """Copy the inner patients of a fold out of the cohort."""
        inner = fold.inner
        return cls(
            cohort.kind,
            outputs,
            tuple(bags.bags[place] for place in inner) if bags.bags else (),
            bags.means[inner],
            cohort.targets[inner],
            cohort.events[inner],
            np.searchsorted(inner, fold.train),
            np.searchsorted(inner, fold.tune),
        )


@dataclass(frozen=True)
class Member:
    """A trained model of one fold.

    Attributes
    ----------
    network : Aggregator
        In evaluation mode, on the CPU.
    temperature : float
        The logits are divided by it.
    curve : list of dict
        Loss per epoch, of the patients it learned from and of those that chose.
    chosen : dict
        Hyper-parameters that the tuning patients chose.
    """

    network: Aggregator
    temperature: float
    curve: list[dict[str, float]]
    chosen: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the weights atomically, with all else as one entry of the metadata."""
        from safetensors.torch import save

        about = {"temperature": self.temperature, "curve": self.curve, "chosen": self.chosen}
        raw = save(dict(self.network.state_dict()), {"wsivit": json.dumps(about)})
        LocalFiles(path.parent).write(path.name, [raw])

    @classmethod
    def read(cls, path: Path, aggregator: str, dim: int, outputs: int) -> Member:
        """Read a member.

        Raises
        ------
        StoreError
            The file is missing, damaged, or of another aggregator.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["wsivit"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            widths = dict(about["chosen"].get("widths", {}))
            network = make_aggregator(aggregator, dim, outputs, **widths)
            network.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(f"{path}: not a complete member of this run: {reason}") from error
        return cls(network.eval(), about["temperature"], about["curve"], about["chosen"])

    @torch.no_grad()
    def logits(self, bags: Sequence[Sequence[Tiles]], means: Vectors | None = None) -> Floats:
        """Return the calibrated logits (n, outputs) of patients: the mean of those of their slides.

        `means` (n, d) are enough for a linear model of the mean.
        """
        return patient_logits(self.network, bags, means) / self.temperature


@torch.no_grad()
def patient_logits(network: Aggregator, bags: Sequence[Sequence[Tiles]], means: Vectors | None = None) -> Floats:
    """Return logits (n, outputs) before the temperature."""
    if not bags:
        assert means is not None
        pooled = network(torch.from_numpy(np.ascontiguousarray(means))[:, None])
        return pooled.double().numpy()  # type: ignore[no-any-return]
    return np.stack([np.mean([slide_logits(network, slide) for slide in slides], axis=0) for slides in bags])


@torch.no_grad()
def slide_logits(network: Aggregator, tiles: Tiles) -> Floats:
    """Return the logits (outputs,) of one slide, pooled in parts."""
    return network.pool(tensor_parts(tiles, network.mean.device)).double().cpu().numpy()


def tensor_parts(tiles: Tiles, device: torch.device | None = None) -> Callable[[], Any]:
    """Return the tiles in parts, as tensors."""
    parts = chunks(tiles)
    return lambda: (torch.from_numpy(np.array(part)).to(device) for part in parts())


def train_member(
    inner: InnerPatients, aggregator: str, options: TrainSlidesOptions, seed: int, device: torch.device
) -> Member:
    """Train the member of a fold: the same patients, options and seed give the same weights, bit for bit.

    Raises
    ------
    UsageError
        The loss is not a number.
    """
    if aggregator == "linear":
        return _train_linear(inner, seed)
    best: tuple[float, Member] | None = None
    for tried in options.searched():
        score, member = _train_network(inner, aggregator, tried, seed, device)
        if best is None or score < best[0]:
            best = score, member
    assert best is not None
    return best[1]


def _train_linear(inner: InnerPatients, seed: int) -> Member:
    """Fit a linear model of the means; the penalty and temperature are chosen by cross-validation among the inner."""
    kind, n = inner.kind, len(inner.targets)
    parts = _inner_parts(inner, seed)
    out_of_fold = {strength: np.zeros((n, inner.outputs)) for strength in STRENGTHS}
    for part in parts:
        rest = np.setdiff1d(np.arange(n), part)
        fit = LinearFit(inner.means[rest])
        for strength in STRENGTHS:
            model = fit.fit(kind, inner.outputs, inner.targets[rest], inner.events[rest], strength)
            out_of_fold[strength][part] = model(inner.means[part])
    losses = [loss(kind, out_of_fold[strength], inner.targets, inner.events) for strength in STRENGTHS]
    strength = STRENGTHS[int(np.argmin(losses))]
    model = LinearFit(inner.means).fit(kind, inner.outputs, inner.targets, inner.events, strength)
    network = make_aggregator("linear", inner.means.shape[1], inner.outputs)
    # A constant feature has no deviation: its weight is 0, and an infinite one would make NaN of it.
    network.load_state_dict(
        {
            "mean": torch.from_numpy(model.mean).float(),
            "std": torch.from_numpy(np.where(np.isfinite(model.std), model.std, 1.0)).float(),
            "head.weight": torch.from_numpy(np.where(np.isfinite(model.std), model.weight, 0.0)).float(),
            "head.bias": torch.from_numpy(model.bias).float(),
        }
    )
    if kind == "survival":  # a risk has no zero of its own: that of the members must be the same
        network.rescale(1.0, -float(model(inner.means).mean()))
    temperature = calibrate(kind, out_of_fold[strength], inner.targets, inner.events)
    curve = [{"strength": s, "tune_loss": value} for s, value in zip(STRENGTHS, losses, strict=True)]
    return Member(network.eval(), temperature, curve, {"strength": strength, "widths": {}})


def _inner_parts(inner: InnerPatients, seed: int) -> list[Places]:
    from sklearn.model_selection import KFold, StratifiedKFold

    n = len(inner.targets)
    strata = inner.targets if inner.kind in ("binary", "multiclass") else inner.events
    smallest = int(np.unique(strata, return_counts=True)[1].min())
    splitter = StratifiedKFold if inner.kind != "regression" and smallest >= 2 else KFold
    count = min(5, n if splitter is KFold else max(2, smallest))
    parts = splitter(count, shuffle=True, random_state=seed % 2**31).split(np.zeros(n), strata)
    return [part for _, part in parts]


def _train_network(
    inner: InnerPatients, aggregator: str, options: TrainSlidesOptions, seed: int, device: torch.device
) -> tuple[float, Member]:
    """Train one network; return the least loss of the tuning patients, and the member as it was then."""
    widths: dict[str, Any] = {name: getattr(options, name) for name in _WIDTHS}
    # The centre and scale of a regression's targets; its network learns them standardised.
    centre, scale = (0.0, 1.0)
    if inner.kind == "regression":
        centre = float(inner.targets[inner.train].mean())
        scale = float(inner.targets[inner.train].std()) or 1.0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = make_aggregator(aggregator, inner.means.shape[1], inner.outputs, **widths)
        network.mean, network.std = _statistics(inner, options)
        network.to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        weight = _class_weight(inner, options, device)
        rng = np.random.default_rng(seed)
        best, best_epoch, state, curve = np.inf, 0, {}, []
        for epoch in range(options.epochs):
            losses = []
            network.train()
            for batch in _batches(inner, options.batch_size, rng):
                tiles, mask, share = _padded([inner.bags[p] for p in batch], options.tiles_per_slide, epoch, device)
                logits = share @ network(tiles, mask)
                value = _loss(inner, batch, logits, weight, centre, scale)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                losses.append(float(value.detach()))
            network.eval()
            tuned = patient_logits(network, [inner.bags[place] for place in inner.tune]) * scale + centre
            tune_loss = loss(inner.kind, tuned, inner.targets[inner.tune], inner.events[inner.tune])
            if not (np.isfinite(losses).all() and np.isfinite(tune_loss)):
                raise UsageError(f"the loss is not a number in epoch {epoch}; try a lower learning rate (--lr)")
            curve.append({"epoch": float(epoch), "train_loss": float(np.mean(losses)), "tune_loss": tune_loss})
            if tune_loss < best - 1e-6:
                best, best_epoch = tune_loss, epoch
                state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            elif epoch - best_epoch >= options.patience:
                break
    network.cpu().load_state_dict(state)
    network.rescale(scale, centre)
    network.eval()
    tuned = patient_logits(network, [inner.bags[place] for place in inner.tune])
    if inner.kind == "survival":  # a risk has no zero of its own: that of the members must be the same
        network.rescale(1.0, -float(tuned.mean()))
    temperature = calibrate(inner.kind, tuned, inner.targets[inner.tune], inner.events[inner.tune])
    searched = {name: getattr(options, name) for name in ("lr", "weight_decay", "tiles_per_slide")}
    return best, Member(network, temperature, curve, {**searched, "epoch": best_epoch, "widths": widths})


def _statistics(inner: InnerPatients, options: TrainSlidesOptions) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the training tiles, each slide counting the same."""
    slides = [slide for place in inner.train for slide in inner.bags[place]]
    means, squares = [], []
    for slide in slides:
        tiles = window(slide, options.tiles_per_slide, 0).astype(np.float64)
        means.append(tiles.mean(axis=0))
        squares.append((tiles**2).mean(axis=0))
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 0))
    std = np.where(std > 1e-6 * (np.abs(mean) + 1e-6), std, 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _class_weight(inner: InnerPatients, options: TrainSlidesOptions, device: torch.device) -> Tensor | None:
    if not options.class_weights or inner.kind not in ("binary", "multiclass"):
        return None
    counts = np.bincount(inner.targets[inner.train].astype(np.int64), minlength=max(inner.outputs, 2))
    return torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32, device=device)


def _batches(inner: InnerPatients, size: int, rng: np.random.Generator) -> list[Places]:
    order = inner.train[rng.permutation(len(inner.train))]
    # Cox's likelihood compares the patients of a batch: few of them say nothing.
    size = max(size, 32) if inner.kind == "survival" else size
    return [part for part in np.array_split(order, max(1, round(len(order) / size))) if len(part)]


def _padded(
    patients: Sequence[Sequence[Tiles]], count: int, epoch: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tiles of an epoch (slides, n, d), which of them there are (slides, n), and each patient's slides.

    The last, (patients, slides), has the share of each slide in its patient: multiplied with the slides' logits it
    gives the patients'.
    """
    drawn = [window(slide, count, epoch) for slides in patients for slide in slides]
    n = max(map(len, drawn))
    tiles = np.zeros((len(drawn), n, drawn[0].shape[1]), np.float16)
    mask = np.zeros((len(drawn), n), bool)
    for row, slide in enumerate(drawn):
        tiles[row, : len(slide)], mask[row, : len(slide)] = slide, True
    share = torch.zeros(len(patients), len(drawn))
    start = 0
    for row, slides in enumerate(patients):
        share[row, start : start + len(slides)] = 1 / len(slides)
        start += len(slides)
    return torch.from_numpy(tiles).to(device), torch.from_numpy(mask).to(device), share.to(device)


def _loss(
    inner: InnerPatients, batch: Places, logits: Tensor, weight: Tensor | None, centre: float, scale: float
) -> Tensor:
    targets = torch.from_numpy(inner.targets[batch]).to(logits.device)
    if inner.kind == "binary":
        each = None if weight is None else weight[targets.long()]
        return functional.binary_cross_entropy_with_logits(logits[:, 0], targets.float(), each)
    if inner.kind == "multiclass":
        return functional.cross_entropy(logits, targets.long(), weight)
    if inner.kind == "regression":
        return functional.mse_loss(logits[:, 0], ((targets - centre) / scale).float())
    return cox_loss_tensor(logits[:, 0], targets, torch.from_numpy(inner.events[batch]).to(logits.device))


def estimate_seconds(
    inner: InnerPatients, aggregator: str, options: TrainSlidesOptions, members: int, device: torch.device
) -> float:
    """Estimate how long the training takes at most, from one step of a network that is then thrown away."""
    if aggregator == "linear":
        return 0.02 * members * len(inner.targets) / 50
    with torch.random.fork_rng(devices=[]):
        network = make_aggregator(
            aggregator, inner.means.shape[1], inner.outputs, **{name: getattr(options, name) for name in _WIDTHS}
        ).to(device)
        batch = inner.train[: options.batch_size]
        started = time.perf_counter()
        tiles, mask, share = _padded([inner.bags[place] for place in batch], options.tiles_per_slide, 0, device)
        (share @ network(tiles, mask)).sum().backward()
        step = time.perf_counter() - started
    per_epoch = step * len(inner.train) / len(batch) * 1.4  # and the tuning patients, whose tiles are all pooled
    return float(per_epoch * options.epochs * members * len(options.searched()))
