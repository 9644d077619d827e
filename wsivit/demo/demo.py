"""The whole way on a sample slide, one verb after the other, with the commands that do the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wsivit.demo.sample import write_sample_slide
from wsivit.errors import OutputExistsError
from wsivit.heatmap import heatmap
from wsivit.inference import predict
from wsivit.io import Output
from wsivit.ranges import Mpp, SampleSize, check_option
from wsivit.slide import info
from wsivit.tiling import LABEL, TileOptions, tile
from wsivit.training import TrainOptions, train

if TYPE_CHECKING:
    from wsivit.store import TileStore

T = TypeVar("T")

MODEL = "test_vit"
"""The smallest ViT that timm knows: it learns the two sample tissues in a minute on two cores, from scratch."""
RECIPE = TrainOptions(epochs=16, batch_size=16, lr=1e-3, image_size=96, pretrained=False)
TILES = TileOptions(tile_size=128)
SAMPLES = {"train": 1, "test": 2}
"""Names and seeds of the two slides."""


@dataclass(frozen=True)
class Step:
    """One step of the demo.

    Attributes
    ----------
    command : str
        The command line that does the same.
    made : tuple of Path
        What it wrote.
    """

    command: str
    made: tuple[Output, ...]


@dataclass(frozen=True)
class Demo:
    """What the demo did, and how well.

    Attributes
    ----------
    folder : Path
    steps : tuple of Step
    tiles : int
        Tiles of the test slide that lie in a known region.
    accuracy, auroc : float or None
        Of these tiles, against the known regions; None for a slide without regions.
    """

    folder: Path
    steps: tuple[Step, ...]
    tiles: int = 0
    accuracy: float | None = None
    auroc: float | None = None


def demo(
    output: str | os.PathLike[str] = "wsivit-demo",
    *,
    slide: str | os.PathLike[str] | None = None,
    slide_mpp: float | None = None,
    size: int = 8192,
    progress: bool = False,
) -> Demo:
    """Show the whole way on a sample slide: tile, train, predict, heatmap.

    Two procedural H&E-like slides are written, with regions of two tissue kinds; a small ViT is fine-tuned on the
    one and predicts the other. Nothing is downloaded.

    Parameters
    ----------
    output : path
        Folder for all that is made; it must be new or empty.
    slide : path, optional
        A slide of your own: it is described and tiled, as far as it goes without labels.
    slide_mpp : float, optional
        Microns per pixel of that slide, where its file does not say.
    size : int
        Side of the sample slides, in pixels.
    progress : bool
        Show progress, and each command as it begins.

    Returns
    -------
    Demo

    Raises
    ------
    OutputExistsError
        The folder is there and not empty.
    """
    check_option("size", size, SampleSize)
    check_option("slide_mpp", slide_mpp, Mpp | None)
    folder = Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise OutputExistsError(f"{folder}: is there already; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    tour = _Tour(folder, progress)
    return tour.own_slide(Path(slide), slide_mpp) if slide is not None else tour.samples(size)


class _Tour:
    """Runs one step after the other, and remembers the command of each."""

    def __init__(self, folder: Path, progress: bool) -> None:
        self._folder, self._progress = folder, progress
        self._steps: list[Step] = []

    def samples(self, size: int) -> Demo:
        """Tile two sample slides, train on the first, predict the second, draw its heatmap."""
        _one_thread()
        learn, test = (self._tiled_sample(name, seed, size) for name, seed in SAMPLES.items())
        run, picture = self._folder / "vit", self._folder / "heatmap.png"
        recipe = (
            f"--epochs {RECIPE.epochs} --batch-size {RECIPE.batch_size} --lr {RECIPE.lr} "
            f"--image-size {RECIPE.image_size} --no-pretrained"
        )
        self._step(
            f"wsivit train {learn.path} --label {LABEL} --model {MODEL} {recipe} -o {run}",
            lambda: train([learn.path], label=LABEL, model=MODEL, output=run, options=RECIPE, progress=self._progress),
            lambda _: (run,),
        )
        self._step(
            f"wsivit predict {run} {test.path}",
            lambda: predict(run, test.path, progress=self._progress),
            lambda _: (test.path / "predictions" / run.name,),
        )
        self._step(
            f"wsivit heatmap {test.path} --png {picture}",
            lambda: heatmap(test.path, png=picture),
            lambda made: tuple(made.paths),
        )
        return Demo(self._folder, tuple(self._steps), *_score(test, run.name))

    def _tiled_sample(self, name: str, seed: int, size: int) -> TileStore:
        self._announce(f"drawing the sample slide {self._folder / name}.tiff, {size} x {size} px")
        sample = write_sample_slide(self._folder, seed=seed, size=size, name=name, progress=self._progress)
        tiles = self._folder / "tiles"
        return self._step(
            f"wsivit tile {sample.slide} --annotations {sample.annotations} --tile-size {TILES.tile_size} -o {tiles}",
            lambda: tile(sample.slide, tiles, TILES, annotations=sample.annotations, progress=self._progress),
            lambda done: (done.store.path, done.preview),
        ).store

    def own_slide(self, slide: Path, slide_mpp: float | None) -> Demo:
        """Describe and tile a person's own slide."""
        scale = "" if slide_mpp is None else f" --slide-mpp {slide_mpp:g}"
        self._step(f"wsivit info {slide}{scale}", lambda: info(slide, slide_mpp=slide_mpp), lambda _: ())
        self._step(
            f"wsivit tile {slide}{scale} -o {self._folder}",
            lambda: tile(slide, self._folder, slide_mpp=slide_mpp, progress=self._progress),
            lambda done: (done.store.path, done.preview),
        )
        return Demo(self._folder, tuple(self._steps))

    def _step(self, command: str, action: Callable[[], T], made: Callable[[T], tuple[Output, ...]]) -> T:
        self._announce(f"$ {command}")
        result = action()
        self._steps.append(Step(command, made(result)))
        return result

    def _announce(self, text: str) -> None:
        if self._progress:
            print(text, file=sys.stderr, flush=True)


def _one_thread() -> None:
    """Compute on one thread: a net this small waits longer for a second one than that one helps (seen: 3 times)."""
    import torch

    torch.set_num_threads(1)


def _score(store: TileStore, run: str) -> tuple[int, float, float]:
    """Return how many tiles are labelled, and accuracy and AUROC of a two-class run on them."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    truth, predicted = store.label(LABEL), store.predictions(run)
    known = (truth.codes >= 0) & np.isfinite(predicted.probabilities).all(axis=1)
    names: Any = np.asarray(truth.classes)[truth.codes[known]]
    scores = predicted.probabilities[known]
    guesses = np.asarray(predicted.classes)[scores.argmax(axis=1)]
    auroc = roc_auc_score(names == predicted.classes[1], scores[:, 1])
    return int(known.sum()), float(accuracy_score(names, guesses)), float(auroc)
