"""How near prediction comes to the speed of the bare model, and how that compares.

    python predicting.py [SLIDE] [--model resnet50] [--rounds 1] [--device cpu] [--peers wsinfer=PYTHON]

Every row is a process of its own that loads the model first, scores one batch, and is then timed: from the slide to the
scores on the disk. "bare model" is the same network over and over on one batch that lies ready, as a script calls it;
"side by side" arranges the cores as wsivit does, which is the most that can be had. On a GPU (``--device cuda``), where
that is the same, all rows calculate in the same precision, and a larger slide should be given.
Rows take turns. wsivit's are measured against the bare model in their own process, before and after; for the others the
bare model has a row. A share is the median over the rounds. ``--features`` measures the rows of ``features.py`` in
their place: an encoder's vectors. The weights are random (speed does not depend on them) and the same for all: wsivit
and the OpenSlide loop read one run folder, the peers a TorchScript file of it. The peers, wsinfer and tiatoolbox, are
run by a Python that has them (``peers/predict_*.py``). Stitching and exports are in
``heatmaps.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import features
import numpy as np
from timed import timed

ROWS = (
    "bare model",
    "bare model, side by side",
    "wsivit, from the slide",
    "wsivit, from a store",
    "wsivit, ONNX",
    "wsivit, ONNX int8",
    "OpenSlide + DataLoader",
)
BESIDE = ("bare model, side by side", "wsivit, from the slide", "wsivit, from a store")
PEERS = Path(__file__).parent / "peers"
CLASSES = ("other", "tumor")
SIDE, BATCH = 224, 32


def main() -> None:
    """Make the run and the stores, measure every row in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", nargs="?", help="default: a sample slide, painted for it")
    parser.add_argument("--size", type=int, default=6144, help="side of the sample slide; 6144 px have some 250 tiles")
    parser.add_argument("--model", default="resnet50", help="a timm name")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tiles", type=int, default=256, help="tiles of the bare model; all others score the slide's")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--features", action="store_true", help="measure encoders: see features.py")
    parser.add_argument("--peers", nargs="*", default=(), type=pair, metavar="NAME=PYTHON", help="wsinfer, tiatoolbox")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.rows = given.rows or (features.ROWS if given.features else ROWS)
    if given.measure in features.MEASURED:
        run = features.MEASURED[given.measure](given)
        timed(run, features.bare(given, 128) if given.measure in features.BESIDE else None)
        return
    if given.measure:
        run = (MEASURED.get(given.measure) or wsivit)(given)
        timed(run, bare(given, 128) if given.measure in BESIDE else None)
        return
    with tempfile.TemporaryDirectory() as folder:
        given.work = Path(folder)
        prepare(given)
        if given.features:
            features.prepare(given)
        if given.device != "cpu":
            given.rows = [row for row in given.rows if row != "bare model, side by side"]
        commands = {row: features.command(row, given) or own_command(row, given) for row in given.rows}
        commands |= {name: peer_command(name, python, given) for name, python in given.peers}
        found: dict[str, list[dict[str, Any]]] = {row: [] for row in commands}
        for _ in range(given.rounds):
            for row, command in commands.items():
                found[row].append(in_process(command))
                print(row, found[row][-1], file=sys.stderr, flush=True)
        report(found, given)


def pair(words: str) -> tuple[str, str]:
    """Split ``NAME=PYTHON``."""
    name, _, python = words.partition("=")
    return name, python


def prepare(given: argparse.Namespace) -> None:
    """Write a run folder of random weights, a TorchScript of it, a store with pixels and one of coordinates."""
    import torch

    from wsivit import TileOptions, tile
    from wsivit.demo import write_sample_slide
    from wsivit.models.classifier import create_classifier
    from wsivit.models.classifier_folder import save_classifier
    from wsivit.models.run_folder import RunMetadata

    given.slide = given.slide or str(write_sample_slide(given.work, seed=1, size=given.size, name="sample").slide)

    torch.manual_seed(0)
    made = create_classifier(given.model, CLASSES, pretrained=False)
    contract = RunMetadata(given.model, CLASSES, "", given.mpp, SIDE, made.preprocessing, [], {}, {})
    replace(contract, model_fingerprint=save_classifier(made, given.work / "run")).write(given.work / "run")
    tile(given.slide, given.work / "pixels", TileOptions(mpp=given.mpp, tile_size=SIDE))
    if given.peers:
        write_zoo(made.model.timm_model.eval(), made.preprocessing, given)


def write_zoo(network: Any, preprocessing: Any, given: argparse.Namespace) -> None:
    """Write the network as the WSInfer zoo has its models."""
    import torch

    folder = given.work / "zoo"
    folder.mkdir()
    side = preprocessing.image_size
    torch.jit.trace(network, torch.zeros(1, 3, side, side)).save(folder / "torchscript_model.pt")
    normalise = {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    config = {
        "spec_version": "1.0",
        "architecture": given.model,
        "num_classes": len(CLASSES),
        "class_names": list(CLASSES),
        "patch_size_pixels": SIDE,
        "spacing_um_px": given.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": side}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": normalise},
        ],
    }
    (folder / "config.json").write_text(json.dumps(config))


def own_command(row: str, given: argparse.Namespace) -> list[str]:
    """What measures one row of wsivit's environment."""
    words = [sys.executable, __file__, given.slide, "--measure", row, "--work", str(given.work), "--model", given.model]
    return [*words, "--mpp", str(given.mpp), "--tiles", str(given.tiles), "--device", given.device]


def peer_command(name: str, python: str, given: argparse.Namespace) -> list[str]:
    """What measures a peer in its own environment."""
    words = [python, str(PEERS / f"predict_{name}.py"), given.slide, str(given.work / "zoo")]
    return [*words, given.device, str(BATCH)]


def in_process(command: list[str]) -> dict[str, Any]:
    """Measure one row in a process of its own."""
    paths = os.pathsep.join(filter(None, [str(PEERS.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def bare(given: argparse.Namespace, tiles: int = 0) -> Callable[[], int]:
    """The network, in its best memory format, on one batch that lies ready, as a script calls it."""
    import torch

    scorer = make_scorer(given)
    batch = ready_batch(scorer, given, BATCH)

    def run(steps: int = -(-(tiles or given.tiles) // BATCH)) -> int:
        with (
            torch.inference_mode(),
            torch.autocast(scorer.device.type, scorer.reduced, enabled=scorer.reduced is not None),
        ):
            for _ in range(steps):
                last = scorer._network(batch)
            last.cpu()
        return steps * BATCH

    run(2)
    return run


def bare_side_by_side(given: argparse.Namespace) -> Callable[[], int]:
    """The same in batches a core each, as wsivit has them: nothing is read, prepared or written."""
    import torch

    from wsivit.inference.cpu import map_in_streams

    scorer = make_scorer(given)
    batch = ready_batch(scorer, given, scorer.step)

    def once(_: int) -> None:
        with torch.inference_mode():
            scorer._network(batch)

    def run(steps: int = -(-given.tiles // scorer.step)) -> int:
        return sum(scorer.step for _ in map_in_streams(once, range(steps), scorer.streams))

    run(2 * scorer.streams)
    return run


def ready_batch(scorer: Any, given: argparse.Namespace, tiles: int) -> Any:
    """Some of the slide's tiles as the network takes them, on its device."""
    import torch

    from wsivit.models import model_input
    from wsivit.store import TileStore

    (stored,) = (given.work / "pixels").glob("*.zarr")
    staged = scorer.stage(TileStore(stored).read(range(tiles))).to(scorer.device)
    batch = model_input(staged, scorer.spec.preprocessing)
    return batch.contiguous(memory_format=torch.channels_last) if scorer._network.convolves else batch


def make_scorer(given: argparse.Namespace) -> Any:
    """The run's network, ready."""
    from wsivit.inference import ModelRunner, ScoringOptions
    from wsivit.models import open_run
    from wsivit.models.run_folder import RunMetadata

    run = given.work / "run"
    return ModelRunner(open_run(run, RunMetadata.read(run)), ScoringOptions(batch_size=BATCH, device=given.device))


def wsivit(given: argparse.Namespace) -> Callable[[], int]:
    """Predict as the command does, its model loaded."""
    from wsivit.inference import PredictOptions, Predictor

    engine: Any = {"wsivit, ONNX": "onnx", "wsivit, ONNX int8": "onnx-int8"}.get(given.measure, "torch")
    output = Path(tempfile.mkdtemp(dir=given.work))
    device = "cpu" if engine != "torch" else given.device
    options = PredictOptions(batch_size=BATCH, device=device, engine=engine)
    predictor = Predictor(given.work / "run", name=output.name, options=options)
    for _ in range(2):
        predictor.runner(np.zeros((BATCH, SIDE, SIDE, 3), np.uint8))
    (stored,) = (given.work / "pixels").glob("*.zarr")
    source: Any = given.slide if given.measure == "wsivit, from the slide" else stored
    return lambda: len(predictor(source, output=output).readable)


def openslide_loop(given: argparse.Namespace) -> Callable[[], int]:
    """What TRIDENT and most scripts do: a dataset that reads regions, torchvision's transforms, a DataLoader."""
    import openslide
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from wsivit.store import TileStore

    (stored,) = (given.work / "pixels").glob("*.zarr")
    store = TileStore(stored)
    places = list(zip(store.x0.tolist(), store.y0.tolist(), strict=True))
    scorer = make_scorer(given)
    made, network = scorer.spec.preprocessing, scorer._network.to(memory_format=torch.contiguous_format)
    prepare_tile = transforms.Compose(
        [transforms.Resize(made.image_size), transforms.ToTensor(), transforms.Normalize(made.mean, made.std)]
    )

    class Regions(Dataset):
        slide = None

        def __len__(self) -> int:
            return len(places)

        def __getitem__(self, i: int) -> Any:
            self.slide = self.slide or openslide.OpenSlide(given.slide)
            level = self.slide.get_best_level_for_downsample(store.grid.downsample_x * 1.01)
            side = round(SIDE * store.grid.downsample_x / self.slide.level_downsamples[level])
            region = self.slide.read_region(places[i], level, (side, side)).convert("RGB")
            return prepare_tile(region if side == SIDE else region.resize((SIDE, SIDE)))

    def run() -> int:
        scores = []
        workers = os.cpu_count() or 1
        with (
            torch.inference_mode(),
            torch.autocast(scorer.device.type, scorer.reduced, enabled=scorer.reduced is not None),
        ):
            for batch in DataLoader(Regions(), BATCH, num_workers=workers):
                scores += [network(batch.to(scorer.device)).float().softmax(1).cpu().numpy()]
        np.save(given.work / "openslide.npy", np.concatenate(scores))
        return len(places)

    scorer(np.zeros((BATCH, SIDE, SIDE, 3), np.uint8))
    return run


def report(found: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> None:
    """Print medians as Markdown."""
    print(
        f"{given.model}, {Path(given.slide).name}, tiles of {SIDE} px at {given.mpp} µm/px, batches of {BATCH}, ",
        end="",
    )
    print(f"{given.device}, {os.cpu_count()} cores, {given.rounds} rounds\n")
    print("| what | tiles | tiles/s | of the bare model | CPU ms per tile |\n|---|---|---|---|---|")
    for row, done in found.items():
        failed = next((once["failed"] for once in done if "failed" in once), None)
        if failed:
            print(f"| {row} | did not run: {failed} | | | |")
            continue
        rates, cpu = [once["tiles"] / once["s"] for once in done], [1000 * once["cpu"] / once["tiles"] for once in done]
        spread = f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        print(f"| {row} | {done[0]['tiles']} | {spread} | {share(done, found)} | {statistics.median(cpu):.0f} |")


def share(done: list[dict[str, Any]], found: dict[str, list[dict[str, Any]]]) -> str:
    """Median of the rate over that of the bare model: beside it in its process, else in the same round; or empty."""
    alone = found.get("bare model") or found.get(features.BARE) or [{}] * len(done)
    pairs = zip(done, alone, strict=True)
    yardsticks = [once.get("yardstick", bare["tiles"] / bare["s"] if "s" in bare else None) for once, bare in pairs]
    shares = [once["tiles"] / once["s"] / beside for once, beside in zip(done, yardsticks, strict=True) if beside]
    return f"{statistics.median(shares):.2f}" if shares else ""


MEASURED = {
    "bare model": bare,
    "bare model, side by side": bare_side_by_side,
    "OpenSlide + DataLoader": openslide_loop,
}

if __name__ == "__main__":
    main()
