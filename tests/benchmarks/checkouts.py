"""Two checkouts side by side: start-up, tiling, reading, training, prediction and heatmaps of an old commit and a new.

    git worktree add ../old COMMIT
    python tests/benchmarks/checkouts.py ../old . slide.svs --rounds 5 --json checkouts.json

Each round runs every job with the old checkout, the new one, and the old one again, in an order that changes from round
to round; each job is a command in a process of its own, with the same Python and the same libraries. A ratio is the
median over the rounds of new by old of the same round: above 1, the new one is slower. "noise" is the same ratio of the
old one to itself; what lies within it says nothing. The first round warms the caches and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from openslide import OpenSlide

OLD, NEW, AGAIN = "old", "new", "old again"
# Each job may use what the ones before it have written: {out} is a folder for each checkout and round.
JOBS = {
    "start": "--help",
    "tile, slide's scale": "tile {slide} --mpp {mpp} --tile-size {tile_size} --annotations {regions} -o {out}/fine -q",
    "tile, half scale": "tile {slide} --mpp {half} --tile-size {tile_size} --annotations {regions} -o {out}/tiles -q",
    "read": "verify {out}/tiles --sample 100000",
    "train": "train {out}/tiles --label region --model {model} --no-pretrained --image-size 96 --epochs 1"
    " --split-by region --device {device} --workers {workers} -o {out}/run -q",
    "predict": "predict {out}/run {out}/tiles/{name}.zarr --device {device} -q",
    "heatmap": "heatmap {out}/tiles/{name}.zarr -o {out}/heatmap",
}


def write_halves(slide: Path, path: Path) -> float:
    """Annotate the left and the right half of a slide; return its scale."""
    with OpenSlide(slide) as opened:
        (width, height), mpp = opened.dimensions, float(opened.properties["openslide.mpp-x"])
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [[[a, 0], [b, 0], [b, height], [a, height], [a, 0]]]},
        }
        for name, a, b in (("left", 0, width // 2), ("right", width // 2, width))
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return mpp


def run(checkout: Path, words: Sequence[str]) -> dict[str, float]:
    """Run a command of a checkout; seconds by the clock and of all its processes' CPU time."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": ""}
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "wsivit", *words], env=environment, cwd=checkout, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{checkout}: wsivit {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": time.perf_counter() - start, "cpu": cpu}


def measure(given: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Let the checkouts take turns; every run by job and checkout."""
    checkouts = {OLD: given.old.resolve(), NEW: given.new.resolve(), AGAIN: given.old.resolve()}
    mpp = write_halves(given.slide, folder / "regions.geojson")
    runs: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for number in range(given.rounds + 1):
        turn = [*checkouts][number % 3 :] + [*checkouts][: number % 3]
        for job in given.jobs:
            for name in turn:
                words = JOBS[job].format(
                    slide=given.slide.resolve(), name=given.slide.stem, regions=folder / "regions.geojson", mpp=mpp,
                    half=2 * mpp, tile_size=given.tile_size, model=given.model, device=given.device,
                    workers=given.workers, out=folder / f"{name.replace(' ', '-')}-{number}",
                ).split()  # fmt: skip
                took = run(checkouts[name], words)
                if number:
                    runs[job][name].append(took)
    return runs


def report(runs: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    lines = [
        "| job | old, CPU s | new, CPU s | **new by old, CPU** | noise | new by old, clock | noise |",
        "|---" * 7 + "|",
    ]
    for job, of in runs.items():
        cells = [f"{median(took['cpu'] for took in of[name]):.2f}" for name in (OLD, NEW)]
        for unit in ("cpu", "wall"):
            for name in (NEW, AGAIN):
                ratio = median(b[unit] / a[unit] for a, b in zip(of[OLD], of[name], strict=True))
                cells.append(f"**{ratio:.2f}**" if (unit, name) == ("cpu", NEW) else f"{ratio:.2f}")
        lines.append(f"| {job} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout of the old commit")
    parser.add_argument("new", type=Path, help="a checkout of the new commit")
    parser.add_argument("slide", type=Path, help="a slide that OpenSlide reads, with its scale in the file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=[*JOBS], help="a job needs those before it")
    parser.add_argument("--tile-size", type=int, default=256)
    parser.add_argument("--model", default="test_vit", help="a timm name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that read tiles in training")
    parser.add_argument("--scratch", help="folder for what is written, on the disk to be measured")
    parser.add_argument("--json", type=Path, help="every run, for another look")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        runs = measure(given, Path(folder))
    print(report(runs))
    if given.json:
        given.json.write_text(json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    main()
