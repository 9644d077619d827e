"""A model on its device: tiles in, scores or features out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.inference.cpu import count_streams, count_tiles, keep_freed_memory, map_in_streams
from wsivit.inference.options import ScoringOptions
from wsivit.io import map_ordered
from wsivit.models import Model, non_finite
from wsivit.store import VIEWS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from wsivit.models import Network

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
T = TypeVar("T")
Key = TypeVar("Key")
Read: TypeAlias = Callable[[T], tuple[Key, NDArray[np.uint8]]]
Scored: TypeAlias = Generator[tuple[Key, NDArray[Any]], None, None]

_AHEAD = 3
"""Batches read for each that is calculated."""


@dataclass(frozen=True)
class Agreement:
    """How well quantised weights agree with those they were made of.

    Attributes
    ----------
    tiles : int
        On how many it was measured.
    same_class : float
        Share of them with the same most probable class.
    mean_difference, largest_difference : float
        Between the probabilities.
    """

    tiles: int
    same_class: float
    mean_difference: float
    largest_difference: float

    def __str__(self) -> str:
        return (
            f"int8 agrees with fp32 on the class of {100 * self.same_class:.1f} % of {self.tiles} tiles; probabilities "
            f"differ by {self.mean_difference:.4f} on average, {self.largest_difference:.4f} at most"
        )


class ModelRunner:
    """A model on its device, called with uint8 tiles (n, h, w, 3).

    It gives float32 logits (n, classes); with ``tta`` those of the eight views of each tile, (n, 8, classes); with
    ``features`` float16 (n, d).

    Parameters
    ----------
    model : Model
    options : ScoringOptions
    features : bool
        Give what the last layer sees, and not what it makes of it.

    Raises
    ------
    StoreMismatchError
        The weights in the folder of a run are not those that were trained.
    UsageError
        There is no such device or engine, or it cannot run this model.
    """

    def __init__(self, model: Model, options: ScoringOptions = ScoringOptions(), *, features: bool = False) -> None:
        import torch

        from wsivit.models import autocast_type

        self.spec, self.options, self.features = model.spec, options, features
        self.device = choose_device(options)
        # A compiled model is made for one shape and one number of threads.
        parallel = self.device.type == "cpu" and not options.compile
        self.streams = count_streams(options.batch_size) if parallel else 1
        self.reduced = autocast_type(options.precision, self.device)
        network = model.load().eval()
        broken = non_finite(network)
        if broken:
            raise StoreError(f"model {model.spec.name}: {broken}; train it again, or get the file again")
        self._network: Network = network.without_head() if self.features else network
        self._run: Any = self._network
        if options.engine != "torch":
            from wsivit.models import OnnxNetwork

            self._run = OnnxNetwork(self._network, self.spec.preprocessing, self.streams, int8=options.int8)
        else:
            self._network.to(self.device)
            if self._network.convolves:
                self._network.to(memory_format=torch.channels_last)
            if options.compile:
                self._run = torch.compile(self._network)
        if self.device.type == "cpu":
            keep_freed_memory()
        log.info("running %s on %s in %s", model.spec.name, self.device, self.precision)

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    @property
    def memory_mb(self) -> float | None:
        """Most memory taken on the GPU so far, in MB; None on the CPU."""
        if self.device.type != "cuda":
            return None
        import torch

        return torch.cuda.max_memory_allocated(self.device) / 1e6

    @property
    def precision(self) -> str:
        """The type it calculates in."""
        if self.options.int8:
            return "int8"
        return "fp32" if self.reduced is None else str(self.reduced).removeprefix("torch.")

    @property
    def dtype(self) -> str:
        """Type of the output."""
        return "float16" if self.features else "float32"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output for one tile."""
        if not self.features:
            each = (len(self.spec.classes),)
            return (VIEWS, *each) if self.options.tta else each
        side = self.spec.preprocessing.image_size
        return self(np.zeros((1, side, side, 3), np.uint8)).shape[1:]

    @property
    def step(self) -> int:
        """Tiles of one batch; those of parallel streams are together at most as many as the options say."""
        if self.streams == 1:
            return self.options.batch_size
        return count_tiles(self.options.batch_size, self.streams, self.spec.preprocessing.image_size)

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the logits or features of tiles."""
        return self.fetch(self.start(self.stage(tiles)))

    def stage(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Bring tiles to where the device copies them from; for the thread that reads."""
        import torch

        pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def start(self, pixels: Tensor) -> Tensor:
        """Start on staged tiles; a GPU works on by itself."""
        import torch

        from wsivit.data import view
        from wsivit.models import model_input

        if not len(pixels):
            return torch.empty((0, *self.shape))
        reduced = torch.autocast(self.device.type, self.reduced, enabled=self.reduced is not None)
        with torch.inference_mode(), reduced:
            moved = pixels.to(self.device, non_blocking=True)
            pictures = model_input(moved, self.spec.preprocessing)
            if self.options.tta:
                return torch.stack([self._forward(view(pictures, code)) for code in range(VIEWS)], dim=1)
            return self._forward(pictures)

    def _forward(self, pictures: Tensor) -> Tensor:
        # A compiled model is made for one shape: the last batch is padded, and the padding left out of the result.
        n, size = len(pictures), self.options.batch_size
        if self.options.compile and n < size:
            pictures = pictures[[*range(n), *[0] * (size - n)]]
        result: Tensor = self._run(pictures)
        return result[:n].half() if self.features else result[:n].float()

    def fetch(self, started: Tensor) -> NDArray[Any]:
        """Wait for a result that was started, and return it."""
        result: NDArray[Any] = started.cpu().numpy()
        return result

    def run(self, batches: Iterable[T], read: Read[T, Key], readers: int = 1) -> Scored[Key]:
        """Read batches of at most `step` tiles ahead, in threads, and score them; see `run_models`."""
        with closing(run_models([self], batches, read, readers)) as results:
            for key, (result,) in results:
                yield key, result

    def require_finite(self, result: NDArray[Any], where: str = "") -> None:
        """Reject results that are not numbers, by the model's name: it is at fault, and not the tiles."""
        bad = int((~np.isfinite(result).reshape(len(result), -1).all(axis=1)).sum()) if len(result) else 0
        if bad:
            hint = "it overflows" if self.precision == "fp32" else f"it overflows in {self.precision}: try fp32"
            raise StoreError(
                f"model {self.spec.name} gives no number (NaN or infinity) for {bad} of {len(result)} tiles{where}, "
                f"though its weights are finite and the tiles can be read: {hint}"
            )

    def agreement(self, tiles: NDArray[np.uint8]) -> Agreement:
        """Compare with the same model in float32 on some tiles."""

        def probabilities() -> Floats:
            parts = range(0, len(tiles), self.step)
            results = [result for _, result in self.run(parts, lambda k: (k, tiles[k : k + self.step]))]
            return softmax(np.concatenate(results) / self.spec.temperature)

        quantised = probabilities()
        run, self._run = self._run, self._network
        try:
            exact = probabilities()
        finally:
            self._run = run
        apart = np.abs(quantised - exact)
        same = float((quantised.argmax(-1) == exact.argmax(-1)).mean())
        return Agreement(len(tiles), same, float(apart.mean()), float(apart.max()))


def run_models(
    runners: Sequence[ModelRunner], batches: Iterable[T], read: Read[T, Key], readers: int = 1
) -> Generator[tuple[Key, list[NDArray[Any]]], None, None]:
    """Read batches ahead, in threads, and give each to every model; in order, by the key that each reads.

    All models are on one device. On the CPU batches are calculated in parallel streams; a GPU has its next batch before
    the last is fetched.
    """
    first, streams = runners[0], min(runner.streams for runner in runners)

    def stage(batch: T) -> tuple[Key, Tensor]:
        key, tiles = read(batch)
        return key, first.stage(tiles)

    def score(staged: tuple[Key, Tensor]) -> tuple[Key, list[NDArray[Any]]]:
        return staged[0], [runner.fetch(runner.start(staged[1])) for runner in runners]

    with ThreadPoolExecutor(readers) as pool:
        staged = map_ordered(pool, stage, batches, ahead=_AHEAD * max(readers, streams))
        if first.device.type != "cuda":
            yield from map(score, staged) if streams == 1 else map_in_streams(score, staged, streams)
            return
        started: deque[tuple[Key, list[Tensor]]] = deque()
        for key, pixels in staged:
            started.append((key, [runner.start(pixels) for runner in runners]))
            if len(started) > 1:
                done, results = started.popleft()
                yield done, [runner.fetch(result) for runner, result in zip(runners, results, strict=True)]
        for done, results in started:
            yield done, [runner.fetch(result) for runner, result in zip(runners, results, strict=True)]


def choose_device(options: ScoringOptions) -> torch.device:
    """Return the first of the devices that are named.

    Raises
    ------
    UsageError
        There is no such device, or the engine does not run on it.
    """
    import torch

    from wsivit.models import device_for

    name = options.device.split(",")[0].strip()
    if options.engine != "torch":
        if name not in ("auto", "cpu"):
            raise UsageError(f"engine {options.engine} runs on the CPU; --device {name} needs engine torch")
        return torch.device("cpu")
    return device_for(name)


def softmax(logits: NDArray[Any]) -> Floats:
    """Return probabilities of logits (…, classes); of one class alone, that of yes. NaN stays NaN."""
    if logits.shape[-1] == 1:
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)
