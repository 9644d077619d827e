"""Does fine-tuning beat the linear probe of its own backbone? Few tiles of one slide, in blocks apart from each other.

usage: python tests/benchmarks/fine_tuning.py SLIDE REGIONS.geojson WEIGHTS.safetensors [--draws 2] [--lr 1e-4 5e-4]

Each draw deals square blocks of tiles out to train, tune and test anew. Prints accuracy and calibrated log loss on the
test part of the run, and of the linear probe that it records.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from wsivit.data import Samples, load_samples
from wsivit.slide import open_slide
from wsivit.tiling import TileOptions, tile
from wsivit.training import TrainOptions, train

BLOCK = 12
"""Tiles to a side of a block; its rim is left out."""
PARTS = {"train": 240, "tune": 120, "test": 600}


def deal(samples: Samples, seed: int, path: Path) -> None:
    """Write a split of at most so many tiles a part, no two parts sharing a block."""
    rng = np.random.default_rng(seed)
    items = list(samples.items())
    places = np.array([[int(number) for number in item.split("/")] for item in items])
    inside = ((places % BLOCK >= 1) & (places % BLOCK < BLOCK - 1)).all(axis=1)
    block = places[:, 0] // BLOCK * 1000 + places[:, 1] // BLOCK
    blocks = rng.permutation(np.unique(block))
    side = np.full(len(items), "left out", dtype=object)
    for number, part in enumerate(("train", "test", "tune", "test")):
        side[np.isin(block, blocks[number::4]) & inside] = part
    for part, most in PARTS.items():
        side[rng.permutation(np.flatnonzero(side == part))[most:]] = "left out"
    name = samples.sources[0].id
    lines = [f"{name},{item},{part}" for item, part in zip(items, side, strict=True)]
    path.write_text("\n".join(["source,item,split", *lines]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("regions")
    parser.add_argument("weights")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--mpp", type=float, default=2.0)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-4, 5e-4])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with open_slide(given.slide) as slide:
            store = tile(slide, folder, TileOptions(mpp=given.mpp, tile_size=64), annotations=given.regions).store
        samples = load_samples([store.path], "region")
        for draw in range(1, given.draws + 1):
            deal(samples, draw, folder / "split.csv")
            for lr in given.lr:
                options = TrainOptions(
                    epochs=3, batch_size=16, image_size=96, lr=lr, weights=given.weights, workers=0, seed=draw,
                    split=str(folder / "split.csv"), split_by="region",
                )  # fmt: skip
                run = train(
                    [store.path], model=given.model, label="region", output=folder / f"{draw}-{lr}", options=options
                )
                ours, probe = run.test, run.contract.probe
                theirs, kept = probe["test"], ", which was kept" if probe["kept"] else ""
                print(
                    f"draw {draw}, lr {lr:g}: accuracy {ours['accuracy']:.3f}, log loss {ours['log_loss']:.3f}; "
                    f"probe {theirs['accuracy']:.3f}, {theirs['log_loss']:.3f}{kept}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
