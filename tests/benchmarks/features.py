"""Rows of ``predicting.py --features``: how near features come to the speed of the bare encoder, and how others do.

Networks are timm's with random weights, in folders; tiles are read from the slide, or from a store with pixels. "Two
encoders in one pass" reads each tile once, "in two passes" twice. The loops of TRIDENT and slide2vec are written anew
from their code (``peers/features_*.py``), over OpenSlide and a DataLoader, in this environment.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE, BATCH = 224, 32
BARE, FROM_SLIDE, FROM_STORE = "bare encoder", "features, from the slide", "features, from a store"
ONE_PASS, TWO_PASSES = "two encoders, one pass", "two encoders, two passes"
PEERS = {"TRIDENT's loop": "trident", "slide2vec's loop": "slide2vec"}
ROWS = (BARE, FROM_SLIDE, FROM_STORE, ONE_PASS, TWO_PASSES, *PEERS)
BESIDE = (FROM_SLIDE, FROM_STORE)
"""Rows that are measured against the bare encoder in their own process."""
SECOND = "resnet18"


def prepare(given: argparse.Namespace) -> None:
    """Write both networks as folders, and the places of the tiles for the peers."""
    import timm
    import torch
    from safetensors.torch import save_file

    from wsivit.store import TileStore

    for number, name in enumerate((given.model, SECOND)):
        torch.manual_seed(number)
        network = timm.create_model(name, num_classes=0)
        folder = given.work / f"encoder-{number}"
        folder.mkdir()
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
        settings = {"input_size": [3, SIDE, SIDE], "crop_pct": 1.0}
        config = {"architecture": name, "num_classes": 0, "pretrained_cfg": settings}
        (folder / "config.json").write_text(json.dumps(config))
    (stored,) = (given.work / "pixels").glob("*.zarr")
    store = TileStore(stored)
    np.save(given.work / "places.npy", np.stack([store.x0, store.y0], 1)[store.readable])


def command(row: str, given: argparse.Namespace) -> list[str] | None:
    """What runs a peer; None for a row of wsivit's own."""
    if row not in PEERS:
        return None
    script = Path(__file__).parent / "peers" / f"features_{PEERS[row]}.py"
    return [sys.executable, str(script), given.slide, str(given.work), given.device, str(BATCH), str(given.mpp)]


def extractor(given: argparse.Namespace, *numbers: int) -> Any:
    """The networks of some folders, loaded."""
    from wsivit.inference import FeatureExtractor, FeaturesOptions

    options = FeaturesOptions(batch_size=BATCH, device=given.device, mpp=given.mpp, tile_size=SIDE)
    made = FeatureExtractor([given.work / f"encoder-{number}" for number in numbers], options=options)
    for runner in made.runners:
        for _ in range(2):
            runner(np.zeros((BATCH, SIDE, SIDE, 3), np.uint8))
    return made


def bare(given: argparse.Namespace, tiles: int = 0) -> Callable[[], int]:
    """The first network on one batch that lies ready, as a script calls it."""
    import torch

    from wsivit.models import model_input
    from wsivit.store import TileStore

    (runner,) = extractor(given, 0).runners
    (stored,) = (given.work / "pixels").glob("*.zarr")
    pixels = runner.stage(TileStore(stored).read(range(BATCH))).to(runner.device)
    batch, network = model_input(pixels, runner.spec.preprocessing), runner._network
    if network.convolves:
        batch = batch.contiguous(memory_format=torch.channels_last)

    def run(steps: int = -(-(tiles or given.tiles) // BATCH)) -> int:
        reduced = torch.autocast(runner.device.type, runner.reduced, enabled=runner.reduced is not None)
        with torch.inference_mode(), reduced:
            for _ in range(steps):
                last = network(batch)
            last.cpu()
        return steps * BATCH

    run(2)
    return run


def own(given: argparse.Namespace) -> Callable[[], int]:
    """Features as the command makes them, the networks loaded."""
    (stored,) = (given.work / "pixels").glob("*.zarr")
    source: Any = stored if given.measure == FROM_STORE else given.slide
    together: dict[str, list[tuple[int, ...]]] = {ONE_PASS: [(0, 1)], TWO_PASSES: [(0,), (1,)]}
    passes = together.get(given.measure, [(0,)])
    extractors = [extractor(given, *numbers) for numbers in passes]

    def run() -> int:
        # The slide is tiled in a folder of its own each time; in two passes the second finds the first one's tiles.
        output = Path(tempfile.mkdtemp(dir=given.work))
        for each in extractors:
            made = each(source, output=output, force=True)
        return len(made.readable)

    return run


MEASURED: dict[str, Callable[[argparse.Namespace], Callable[[], int]]] = {BARE: bare} | dict.fromkeys(
    (FROM_SLIDE, FROM_STORE, ONE_PASS, TWO_PASSES), own
)
