"""What tiling a cohort would take, and which slides stand out, from a few tiles of each; writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.cohort.job_log import JobOutcome, shorten
from wsivit.cohort.jobs import Job, failure
from wsivit.cohort.tasks import Skipped, TileTask
from wsivit.errors import WsivitError
from wsivit.slide import Slide, TileFailure
from wsivit.store import pieces_of
from wsivit.tiling import TileSource, TilingPlan, plan_tiling

_RUNS, _RUN = 4, 8
"""Tiles are tried in so many runs of so many neighbours, spread over the slide."""
_THUMBNAIL = 512
_FEWEST = 5
"""Slides from which a median means something."""
_FAR = 5 * 1.4826
"""Outliers are farther from the median than so many median absolute deviations (5 sigma of a normal distribution) …"""
_LEAST = {"scale": math.log(1.05), "size": math.log(4), "red": 25.0, "green": 25.0, "blue": 25.0}
"""… and than this: logarithms of microns per pixel and of pixels, and grey levels of the tissue."""


@dataclass(frozen=True)
class Estimate:
    """What one slide would take.

    Attributes
    ----------
    slide_id : str
    refused : JobOutcome or None
        How it would fail.
    tiles : int
    bytes, cpu_seconds : float
        Extrapolated from a sample of its tiles.
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
        """What should be alike in the slides of a cohort."""
        red, green, blue = self.color
        # Scale and size count by ratio: half and double are equally far.
        return {"scale": math.log(self.mpp), "size": math.log(self.pixels), "red": red, "green": green, "blue": blue}


def estimate(task: TileTask, job: Job) -> Estimate:
    """Plan the tiling of a slide and try some of its tiles."""
    try:
        with task.open(job.slide) as slide:
            start = time.process_time()  # of all threads: CPU hours are what a cluster has
            plan = plan_tiling(slide, task.options)
            planning = time.process_time() - start
            tile_bytes, tile_seconds = _try_tiles(slide, plan)
            tiles, (width, height) = len(plan.table), slide.dimensions
            return Estimate(
                job.slide.id,
                tiles=tiles,
                bytes=tile_bytes * tiles,
                cpu_seconds=planning + tile_seconds * tiles,
                mpp=math.sqrt(slide.scale.mpp_x * slide.scale.mpp_y),
                pixels=width * height,
                color=_tissue_color(slide, plan),
            )
    except Skipped as error:
        return Estimate(job.slide.id, JobOutcome("skipped", str(error)))
    except (WsivitError, OSError) as error:
        return Estimate(job.slide.id, failure(error))


def _try_tiles(slide: Slide, plan: TilingPlan) -> tuple[float, float]:
    """Return bytes and CPU seconds of a tile, on average."""
    count = len(plan.table)
    if not count or plan.parameters.codec == "none":
        return 0.0, 0.0
    # Runs of neighbours and not single tiles: neighbours share the native tiles that are decoded for them.
    starts = np.linspace(0, max(0, count - _RUN), _RUNS).astype(int)
    tiles = np.unique(np.clip(starts[:, None] + np.arange(_RUN), 0, count - 1))
    start = time.process_time()
    encoded = list(TileSource(slide, plan.parameters, plan.table).chunks(tiles))
    seconds = (time.process_time() - start) / len(tiles)
    readable = [tiles for tiles in encoded if not isinstance(tiles, TileFailure)]
    size = sum(len(piece) for tiles in readable for chunk in tiles.chunks for piece in pieces_of(chunk))
    return size / max(1, sum(len(tiles.sharpness) for tiles in readable)), seconds


def _tissue_color(slide: Slide, plan: TilingPlan) -> tuple[float, float, float]:
    thumbnail, mask = slide.thumbnail(_THUMBNAIL), plan.tissue.mask
    rows, cols = (np.arange(a) * b // a for a, b in zip(thumbnail.shape[:2], mask.shape, strict=True))
    tissue: NDArray[np.uint8] = thumbnail[mask[np.ix_(rows, cols)]]
    if not len(tissue):
        return (math.nan,) * 3
    red, green, blue = tissue.mean(axis=0).tolist()
    return red, green, blue


def outliers(estimates: Sequence[Estimate]) -> dict[str, list[str]]:
    """Describe how a slide is unlike the others, by slide."""
    readable = [estimate for estimate in estimates if estimate.refused is None]
    if len(readable) < _FEWEST:
        return {}
    unlike: dict[str, list[str]] = {}
    for name, least in _LEAST.items():
        values = np.array([estimate.features()[name] for estimate in readable])
        if not np.isfinite(values).any():
            continue
        median = float(np.nanmedian(values))
        # The median and its deviation, and not mean and sigma: the outliers would move those.
        far = max(least, _FAR * float(np.nanmedian(np.abs(values - median))))
        for estimate, value in zip(readable, values.tolist(), strict=True):
            if abs(value - median) > far:
                unlike.setdefault(estimate.slide_id, []).append(_describe_outlier(name, value, median))
    return unlike


def _describe_outlier(name: str, value: float, median: float) -> str:
    if name == "scale":
        return f"scale {math.exp(value):.4g} µm/px, the others about {math.exp(median):.4g}"
    if name == "size":
        return f"{math.exp(value) / 1e6:.4g} megapixels, the others about {math.exp(median) / 1e6:.4g}"
    return f"stain: {name} of the tissue {value:.0f}, of the others about {median:.0f}"


def format_estimates(estimates: Sequence[Estimate]) -> str:
    """Summarize the estimates for people."""
    good = [estimate for estimate in estimates if estimate.refused is None]
    tiles, size = sum(estimate.tiles for estimate in good), sum(estimate.bytes for estimate in good)
    hours = sum(estimate.cpu_seconds for estimate in good) / 3600
    lines = [f"would write {tiles} tiles of {len(good)} slides: {size / 1e9:.3g} GB, {hours:.3g} CPU hours"]
    refused = [(estimate.slide_id, estimate.refused) for estimate in estimates if estimate.refused is not None]
    lines += shorten([f"refused  {slide}: {why.reason} (exit code {why.exit_code})" for slide, why in refused])
    lines += shorten([f"outlier  {slide}: {'; '.join(why)}" for slide, why in outliers(estimates).items()])
    empty = [estimate.slide_id for estimate in good if not estimate.tiles]
    lines += shorten([f"empty    {slide}: no tile of it has enough tissue" for slide in empty])
    return "\n".join([*lines, "nothing is written"])
