"""Many slides: one worker against two, what Dask adds to each slide, and a run with nothing to do.

    python tests/benchmarks/cohort.py --json cohort.json

Slides are drawn on the spot; workers are processes with one thread each; every second round begins with two workers.
Times are wall clock, without starting the workers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from distributed import Client, LocalCluster
from support.small_slides import tissue_picture, write_slide

from wsivit.cohort import Cohort, CohortOptions, status
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobLog
from wsivit.cohort.jobs import Job, JobRunner, run_jobs
from wsivit.cohort.tasks import VerifyTask
from wsivit.slide_list import SlideRow
from wsivit.tiling import TileOptions

OPTIONS = TileOptions(mpp=1.0)
SIDE, LARGE = 2048, 5
"""Pixels of a small slide, and how many of them side by side make a large one."""


def draw(folder: Path, small: int, large: int) -> Path:
    """Draw a few slides, and put each there under many names."""
    folder.mkdir()
    for kind, count, times in (("small", small, 1), ("large", large, LARGE)):
        originals = []
        for k in range(min(count, 2)):
            picture = np.tile(tissue_picture(SIDE, SIDE, k), (times, times, 1))
            originals.append(write_slide(folder / f"{kind}-{k}.tiff", picture, levels=4, tile=256))
        for k in range(len(originals), count):
            shutil.copyfile(originals[k % len(originals)], folder / f"{kind}-{k}.tiff")
    return folder


def workers_seconds(slides: Path, out: Path, workers: int) -> float:
    """Tile all slides with so many workers."""
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(workers)
        began = time.perf_counter()
        many = CohortOptions(scheduler=cluster.scheduler_address)
        done = Cohort(slides, out, many).tile(OPTIONS)
        seconds = time.perf_counter() - began
    assert done.exit_code == 0, done.report()
    shutil.rmtree(out)
    return seconds


def dask_overhead(out: Path, slides: int) -> float:
    """Milliseconds that Dask adds to each slide: of work that is nothing but its two records in the ledger."""
    jobs = [Job(SlideRow(f"s{k}", path=f"/none/{k}.svs"), "new") for k in range(slides)]
    tree = CohortLayout(out)
    tree.add_slides([job.slide for job in jobs])
    runner = JobRunner(VerifyTask(), tree)
    began = time.perf_counter()
    assert len(list(run_jobs(runner.do, runner.end, jobs, CohortOptions(), tree))) == slides
    here = time.perf_counter() - began
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        options = CohortOptions(scheduler=cluster.scheduler_address)
        assert len(list(run_jobs(runner.do, runner.end, jobs[:8], options, tree))) == 8  # the worker has imported all
        began = time.perf_counter()
        assert len(list(run_jobs(runner.do, runner.end, jobs, options, tree))) == slides
        there = time.perf_counter() - began
    return (there - here) / slides * 1000


def rerun_seconds(folder: Path, stores: int) -> tuple[float, float]:
    """Run again over so many finished stores; also the seconds of `status`."""
    slides, out = folder / "slides", folder / "out"
    slides.mkdir(parents=True)
    first = write_slide(slides / "s0.tiff", tissue_picture(600, 500))
    record = Cohort(slides, out).tile(OPTIONS).records[0]
    ledger = JobLog(CohortLayout(out).files)
    for k in range(1, stores):
        os.link(first, slides / f"s{k}.tiff")
        shutil.copytree(out / "slides" / "s0.zarr", out / "slides" / f"s{k}.zarr", copy_function=os.link)
    cohort = Cohort(slides, out)
    for slide in cohort.slides:
        outputs = (f"slides/{slide.id}.zarr/zarr.json",)
        ledger.write(replace(record, slide_id=slide.id, outputs=outputs, signature="another"))
    Cohort(slides, out).tile(OPTIONS)  # compares fingerprints, once: the signatures are of other paths
    began = time.perf_counter()
    done = Cohort(slides, out).tile(OPTIONS)
    seconds = time.perf_counter() - began
    assert not done.jobs and done.slides == stores, done.report()
    began = time.perf_counter()
    assert len(status(out)["tile"]) == stores
    return seconds, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=64)
    parser.add_argument("--large", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--stores", type=int, default=1000)
    parser.add_argument("--json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        slides = draw(root / "slides", given.small, given.large)
        size = sum(path.stat().st_size for path in slides.iterdir()) / 1e9
        times: dict[int, list[float]] = {1: [], 2: []}
        for k in range(given.rounds):
            for workers in (1, 2) if k % 2 == 0 else (2, 1):
                times[workers].append(workers_seconds(slides, root / "out", workers))
        overhead = dask_overhead(root / "none", 500)
        rerun, look = rerun_seconds(root / "many", given.stores)
    one, two = (min(times[workers]) for workers in (1, 2))
    figures = {
        "slides": [given.small, given.large],
        "GB": round(size, 2),
        "seconds, 1 worker": round(one, 1),
        "seconds, 2 workers": round(two, 1),
        "speed-up": round(one / two, 2),
        "Dask overhead per slide, ms": round(overhead, 1),
        f"re-run over {given.stores} stores, s": round(rerun, 2),
        f"status of {given.stores} stores, s": round(look, 2),
    }
    print("\n".join(f"{name:34} {value}" for name, value in figures.items()))
    if given.json:
        Path(given.json).write_text(json.dumps(figures | {"times": times}, indent=1))


if __name__ == "__main__":
    main()
