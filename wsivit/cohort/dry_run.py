"""What tiling a cohort would take and meet, from a look at each slide; nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.cohort.cluster import connect
from wsivit.cohort.jobs import Job, JobRunner
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.result import listed
from wsivit.cohort.run_serial import unexpected_failure
from wsivit.cohort.tasks import JobOutcome, Skipped, TileTask, failure
from wsivit.errors import WsivitError
from wsivit.slide import Slide, TileFailure
from wsivit.store import pieces_of
from wsivit.tiling import TileSource, TilingPlan

_RUNS, _RUN = 4, 8
"""Tiles are tried in so many runs of so many, spread over the slide."""
_LOOK = 512
_FEWEST = 5
"""Slides from which one of them can be called unlike the others."""
_FAR = 5 * 1.4826
"""Outliers lie farther from the median than so many median deviations (5 standard deviations of a normal one) …"""
_LEAST = {"scale": math.log(1.05), "size": math.log(4), "red": 25.0, "green": 25.0, "blue": 25.0}
"""… and than this: logarithms of microns per pixel and of pixels, and grey levels of the tissue."""


@dataclass(frozen=True)
class Estimate:
    """What one slide would take.

    Attributes
    ----------
    slide_id : str
    refused : Outcome or None
        Why it would fail.
    tiles : int
    bytes, cpu_seconds : float
        From a sample of its tiles.
    mpp : float
        Of the slide, microns per pixel.
    pixels : int
        Of its finest level.
    color : tuple of float
        Mean red, green and blue of its tissue; NaN without any.
    """

    slide_id: str
    refused: JobOutcome | None = None
    tiles: int = 0
    bytes: float = 0.0
    cpu_seconds: float = 0.0
    mpp: float = math.nan
    pixels: int = 0
    color: tuple[float, float, float] = (math.nan,) * 3

    def features(self) -> dict[str, float]:
        """What slides of one cohort should be alike in."""
        red, green, blue = self.color
        return {"scale": math.log(self.mpp), "size": math.log(self.pixels), "red": red, "green": green, "blue": blue}


def estimate(runner: JobRunner, job: Job) -> Estimate:
    """Lay a slide out and try some of its tiles."""
    if not isinstance(runner.verb, TileTask):
        raise TypeError(f"{runner.verb.verb} cannot be estimated")
    tiler = runner.verb.tiler(job.slide, rebuild=job.rebuild)
    try:
        with runner.verb.open(job.slide) as slide:
            began = time.process_time()
            layout = tiler.plan_tiling(slide, runner.tree.place(job.slide))
            fixed = time.process_time() - began
            size, seconds = _try(slide, layout)
            count = len(layout.table)
            width, height = slide.dimensions
            mpp = math.sqrt(slide.scale.mpp_x * slide.scale.mpp_y)
            cost = (count, size * count, fixed + seconds * count)
            return Estimate(job.slide.id, None, *cost, mpp, width * height, _color(slide, layout))
    except Skipped as error:
        return Estimate(job.slide.id, JobOutcome("skipped", str(error)))
    except (WsivitError, OSError) as error:
        return Estimate(job.slide.id, failure(error))


def _try(slide: Slide, layout: TilingPlan) -> tuple[float, float]:
    """Return bytes and CPU seconds of a tile."""
    count = len(layout.table)
    if not count or layout.parameters.codec == "none":
        return 0.0, 0.0
    starts = np.linspace(0, max(0, count - _RUN), _RUNS).astype(int)
    tiles = np.unique(np.clip(starts[:, None] + np.arange(_RUN), 0, count - 1))
    began = time.process_time()
    made = list(TileSource(slide, layout.parameters, layout.table).chunks(tiles))
    seconds = (time.process_time() - began) / len(tiles)
    readable = [tiles for tiles in made if not isinstance(tiles, TileFailure)]
    size = sum(len(piece) for tiles in readable for chunk in tiles.chunks for piece in pieces_of(chunk))
    return size / max(1, sum(len(tiles.sharpness) for tiles in readable)), seconds


def _color(slide: Slide, layout: TilingPlan) -> tuple[float, float, float]:
    look, mask = slide.thumbnail(_LOOK), layout.tissue.mask
    rows, cols = (np.arange(a) * b // a for a, b in zip(look.shape[:2], mask.shape, strict=True))
    tissue: NDArray[np.uint8] = look[mask[np.ix_(rows, cols)]]
    if not len(tissue):
        return (math.nan,) * 3
    red, green, blue = tissue.mean(axis=0).tolist()
    return red, green, blue


def estimates(runner: JobRunner, jobs: Sequence[Job], options: CohortOptions) -> Iterator[Estimate]:
    """Estimate each slide, by the workers if there are any."""
    from dask.local import SynchronousExecutor

    if options.workers or options.address:
        with connect(options, patience=15.0) as client:
            futures = client.map(lambda job: estimate(runner, job), jobs, pure=False)
            for job, future in zip(jobs, futures, strict=True):
                yield _estimated(job, future.exception(), future.result)
        return
    for job in jobs:
        done = SynchronousExecutor().submit(estimate, runner, job)
        yield _estimated(job, done.exception(), done.result)


def _estimated(job: Job, error: BaseException | None, result: Callable[[], Estimate]) -> Estimate:
    if error is not None and not isinstance(error, Exception):
        raise error
    return result() if error is None else Estimate(job.slide.id, unexpected_failure(error))


def outliers(found: Sequence[Estimate]) -> dict[str, list[str]]:
    """Tell in what a slide is unlike the others, by slide."""
    format_estimates: dict[str, list[str]] = {}
    good = [one for one in found if one.refused is None]
    if len(good) < _FEWEST:
        return {}
    for name, least in _LEAST.items():
        values = np.array([one.features()[name] for one in good])
        middle = float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan
        far = max(least, _FAR * float(np.nanmedian(np.abs(values - middle)))) if math.isfinite(middle) else math.inf
        for one, value in zip(good, values.tolist(), strict=True):
            if abs(value - middle) > far:
                format_estimates.setdefault(one.slide_id, []).append(_unlike(name, value, middle))
    return format_estimates


def _unlike(name: str, value: float, middle: float) -> str:
    if name == "scale":
        return f"scale {math.exp(value):.4g} µm/px, the others about {math.exp(middle):.4g}"
    if name == "size":
        return f"{math.exp(value) / 1e6:.4g} megapixels, the others about {math.exp(middle) / 1e6:.4g}"
    return f"stain: {name} of the tissue {value:.0f}, of the others about {middle:.0f}"


def format_estimates(found: Sequence[Estimate]) -> str:
    """Sum up the estimates for a person."""
    good = [one for one in found if one.refused is None]
    tiles, size = sum(one.tiles for one in good), sum(one.bytes for one in good)
    hours = sum(one.cpu_seconds for one in good) / 3600
    lines = [f"would make {tiles} tiles of {len(good)} slides: {size / 1e9:.3g} GB, {hours:.3g} CPU hours"]
    refused = [(one.slide_id, one.refused) for one in found if one.refused is not None]
    lines += listed([f"refused  {name}: {why.reason} (exit code {why.exit_code})" for name, why in refused])
    lines += listed([f"outlier  {name}: {'; '.join(why)}" for name, why in outliers(found).items()])
    lines += listed([f"empty    {one.slide_id}: no tile of it has enough tissue" for one in good if not one.tiles])
    return "\n".join([*lines, "nothing is written"])
