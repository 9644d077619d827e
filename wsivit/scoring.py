"""A trained model on its device: tiles in, scores out. torch is loaded when the first one is made."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.data.samples import Samples, StoreSource
from wsivit.errors import StoreMismatchError, UsageError
from wsivit.parallel import map_ordered
from wsivit.progress import progress_bar
from wsivit.runs import Contract

Floats = NDArray[np.float32]


def finished_run(folder: str | os.PathLike[str]) -> Contract:
    """Read the contract of a run that is done.

    Raises
    ------
    StoreError
        The folder is no run.
    UsageError
        The training is not finished.
    """
    contract = Contract.read(folder)
    if not contract.done:
        raise UsageError(f"{folder}: the training is not finished; run the same wsivit train command again to go on")
    return contract


class Scorer:
    """The model of a run on its device, called with uint8 tiles (n, h, w, 3); gives float32 logits (n, classes).

    Parameters
    ----------
    run : path
    contract : Contract
    device : str
        ``auto``, ``cpu``, ``cuda``, ``mps``.

    Raises
    ------
    StoreMismatchError
        The weights in the folder are not those that were trained.
    """

    def __init__(self, run: str | os.PathLike[str], contract: Contract, device: str = "auto") -> None:
        from wsivit.models import device_for, load_classifier, weights_fingerprint

        if weights_fingerprint(run) != contract.model_fingerprint:
            raise StoreMismatchError(f"{run}: the weights are not those that were trained: their fingerprint differs")
        self.contract = contract
        self.device = device_for(device)
        model: Any = load_classifier(run).model
        self.model = model.to(self.device).eval()

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def __call__(self, tiles: NDArray[np.uint8]) -> Floats:
        """Return the logits of tiles, float32 (n, classes)."""
        import torch

        from wsivit.data.augment import normalise, resize

        made = self.contract.preprocessing
        half = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).to(self.device, non_blocking=True)
            pictures = normalise(resize(pixels, made.image_size), made.mean, made.std)
            logits: Floats = self.model(pixel_values=pictures).logits.float().cpu().numpy()
        return logits


def score_samples(scorer: Scorer, samples: Samples, *, batch_size: int = 64, progress: bool = False) -> Floats:
    """Run the model over samples; float32 logits (n, classes), in their order, NaN where one cannot be read."""
    logits = np.full((len(samples), len(scorer.contract.classes)), np.nan, np.float32)
    batches = [np.arange(i, min(i + batch_size, len(samples))) for i in range(0, len(samples), batch_size)]
    with progress_bar(len(samples), "measuring", "tile", show=progress) as advance, ThreadPoolExecutor(1) as reader:
        read = map_ordered(reader, samples.read_good, batches, ahead=3)
        for batch, (good, pixels) in zip(batches, read, strict=True):
            if len(good):
                logits[good] = scorer(pixels)
            advance(len(batch))
    return logits


def stored_logits(contract: Contract, samples: Samples) -> Floats:
    """Logits that ``wsivit predict`` left in the stores, by this very model; (n, classes), NaN where there are none."""
    logits = np.full((len(samples), len(contract.classes)), np.nan, np.float32)
    for number, source in enumerate(samples.sources):
        if isinstance(source, StoreSource):
            here = samples.source == number
            for run in source.store.runs:
                found = source.store.predictions(run)
                same_model = found.attrs.get("model_fingerprint") == contract.model_fingerprint
                if same_model and found.classes == contract.classes and found.logits is not None:
                    logits[here] = found.logits[samples.index[here]]
    return logits


def softmax(logits: Floats) -> Floats:
    """Return probabilities (n, classes) of logits; a row of NaN stays one."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    total: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return total


def run_name(run: str | os.PathLike[str]) -> str:
    """Return the name under which a run's predictions are kept: its folder's."""
    return Path(run).resolve().name
