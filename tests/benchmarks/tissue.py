"""Tissue masks side by side: ``python tests/benchmarks/tissue.py [--peers PYTHON] [--seeds N]`` prints two tables.

The first is over the real slides with truth drawn by eye, the second over procedural scenes with exact truth. Peers
run in the environment of PYTHON (see tissue_peers.py); without it only wsivit's own methods are judged.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.small_slides import SLIDES
from support.tissue_truth.procedural import PEN_SCENES, SCENES, UM, make_pen_scene, make_scene
from support.tissue_truth.scorer import IGNORE, TISSUE, Score, Truth, drawn_slides, ignore_band, sample, score

from wsivit.slide import open_slide
from wsivit.tissue import find_tissue

LEFT_OUT = {
    "test3-TRITC-2-560.ndpi",  # fluorescence: no peer means to read it
    "cmu-1-small-region-dicom",  # the same tissue as CMU-1-Small-Region.svs
}
COARSE = "multiframe_camelyon_challenge_image.dcm"  # its only level is coarser than a slide may be


@dataclass(frozen=True)
class Case:
    """One view to be judged: the picture, its microns per pixel, level 0's, and the truth at `truth_um`."""

    name: str
    view: NDArray[np.uint8]
    um: float
    mpp: float
    truth: Truth
    truth_um: float
    large: NDArray[np.uint8]  # longest side 2000, or the view where the slide has no more
    pen: NDArray[np.bool_] | None = None


def real_cases() -> Iterator[Case]:
    for name, drawn in drawn_slides().items():
        path = SLIDES / drawn.file
        if not path.exists():
            continue
        mpp = min(drawn.mpp, 14.0) if name == COARSE else drawn.mpp
        with open_slide(path, mpp=mpp) as slide:
            view, large = slide.overview(max(8.0, mpp)), slide.thumbnail(2000)
        yield Case(name, view, drawn.raster_um, drawn.mpp, drawn.raster(), drawn.raster_um, large)


def procedural_cases(seeds: int) -> Iterator[Case]:
    for name in SCENES:
        for seed in range(seeds):
            scene = make_scene(name, seed)
            view = scene.render()
            truth = np.where(scene.tissue, TISSUE, 0).astype(np.uint8)
            truth[scene.unjudged | (scene.pen & scene.tissue)] = IGNORE
            yield Case(f"{name} {seed}", view, UM, 0.5, ignore_band(truth, UM), UM, view, scene.pen)


def own_masks(cases: list[Case]) -> dict[str, list[NDArray[np.bool_]]]:
    names = {"**wsivit, default**": "auto", "wsivit, `otsu`": "otsu"}
    return {name: [find_tissue(c.view, c.um, method).mask for c in cases] for name, method in names.items()}


def peer_masks(cases: list[Case], python: str) -> dict[str, list[NDArray[np.bool_]]]:
    with tempfile.TemporaryDirectory() as folder:
        views, masks = Path(folder, "views"), Path(folder, "masks")
        views.mkdir()
        for i, case in enumerate(cases):
            np.savez_compressed(views / f"{i:04}.npz", view=case.view, um=case.um, mpp=case.mpp, large=case.large)
        script = Path(__file__).with_name("tissue_peers.py")
        subprocess.run([python, str(script), str(views), str(masks)], check=True)
        names = json.loads((masks / "names.json").read_text())
        return {
            name: [np.load(masks / f"{i}-{k:04}.npz")["mask"] for k in range(len(cases))]
            for i, name in enumerate(names)
        }


def table(cases: list[Case], masks: dict[str, list[NDArray[np.bool_]]]) -> str:
    lines = [
        "| method | mean IoU | worst IoU | precision | recall | tissue tiles kept | glass tiles kept | worst on |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in masks.items():
        scores = [score(mask, case.truth, case.truth_um) for case, mask in zip(cases, found, strict=True)]
        lines.append(f"| {name} | {summary(cases, scores)} |")
    return "\n".join(lines)


def summary(cases: list[Case], scores: list[Score]) -> str:
    values = np.array([astuple(one) for one in scores])
    worst = int(np.argmin(values[:, 0]))
    mean = values.mean(axis=0)
    numbers = [mean[0], values[worst, 0], *mean[1:4]]
    return " | ".join([*(f"{n:.3f}" for n in numbers), f"{mean[4]:.2%}", cases[worst].name])


def pen_table(cases: list[Case], masks: dict[str, list[NDArray[np.bool_]]]) -> str:
    lines = ["| method | planted pen dropped, mean | worst |", "|---|---|---|"]
    inked = [i for i, case in enumerate(cases) if case.pen is not None and case.pen.any()]
    for name, found in masks.items():
        dropped = [1 - sample(found[i], cases[i].pen.shape)[cases[i].pen].mean() for i in inked]
        lines.append(f"| {name} | {np.mean(dropped):.1%} | {min(dropped):.1%} |")
    return "\n".join(lines)


def hard_pen() -> str:
    """Say how much of the pen without glass beside it, and on small slides, is dropped: by wsivit's default only."""
    dropped = {}
    for name in PEN_SCENES:
        scene = make_pen_scene(name)
        dropped[name] = 1 - find_tissue(scene.render(), UM).mask[scene.pen].mean()
    missed = ", ".join(f"{name} ({share:.0%})" for name, share in dropped.items() if share < 0.9)
    return f"pen within tissue and on small slides: {np.mean(list(dropped.values())):.1%} dropped; under 90 %: {missed}"


def each(cases: list[Case], masks: dict[str, list[NDArray[np.bool_]]]) -> str:
    lines = ["| | " + " | ".join(case.name for case in cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for name, found in masks.items():
        ious = [score(m, c.truth, c.truth_um).iou for c, m in zip(cases, found, strict=True)]
        lines.append(f"| {name} | " + " | ".join(f"{iou:.3f}" for iou in ious) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", help="python of an environment that has the peers")
    parser.add_argument("--seeds", type=int, default=1, help="of each procedural scene")
    options = parser.parse_args()
    real = [case for case in real_cases() if case.name not in LEFT_OUT]
    scenes = list(procedural_cases(options.seeds))
    print(hard_pen())
    for title, cases in (("Real slides, truth drawn by eye", real), ("Procedural scenes, exact truth", scenes)):
        masks = own_masks(cases) | (peer_masks(cases, options.peers) if options.peers else {})
        print(f"\n## {title} ({len(cases)})\n\n{table(cases, masks)}\n")
        print(pen_table(cases, masks) if cases is scenes else each(cases, masks))


if __name__ == "__main__":
    main()
