"""How long slide-level training takes: a linear baseline, an epoch of ABMIL, a bag of a million tiles.

Run: python tests/benchmarks/mil.py
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))

from wsivit.mil.aggregators import make_aggregator
from wsivit.mil.linear_model import outputs_of
from wsivit.mil.member import InnerPatients, slide_logits, train_member
from wsivit.mil.options import TrainSlidesOptions

PATIENTS, TILES, DIM = 300, 1000, 1024


def main() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(PATIENTS) % 2.0
    means = (rng.normal(size=(PATIENTS, DIM)) + targets[:, None] * 0.1).astype(np.float32)
    bags = tuple((rng.normal(size=(TILES, DIM)).astype(np.float16),) for _ in range(60))

    def inner(n: int, with_bags: bool) -> InnerPatients:
        places = np.arange(n)
        tune, events = places[: n // 5], np.ones(n, np.int64)
        own = bags[:n] if with_bags else ()
        return InnerPatients(
            "binary", outputs_of("binary", ()), own, means[:n], targets[:n], events, places[n // 5 :], tune
        )

    cpu, options = torch.device("cpu"), TrainSlidesOptions(epochs=1)
    started = time.perf_counter()
    train_member(inner(PATIENTS, False), "linear", options, 0, cpu)
    print(f"linear, {PATIENTS} patients, {DIM} features: {time.perf_counter() - started:.2f} s per member")
    started = time.perf_counter()
    train_member(inner(60, True), "abmil", options, 0, cpu)
    print(f"abmil, an epoch of 60 patients, {TILES} tiles each: {time.perf_counter() - started:.2f} s")
    million = np.lib.stride_tricks.as_strided(bags[0][0], (1_000_000, DIM), (0, 2))  # one tile a million times
    network = make_aggregator("abmil", DIM, 1).eval()
    started = time.perf_counter()
    slide_logits(network, million)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"abmil, a bag of a million tiles: {time.perf_counter() - started:.1f} s, peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
