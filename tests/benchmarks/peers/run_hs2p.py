"""hs2p: its own tissue, grid and tar writer, with TurboJPEG where that library is; ``--backend cucim`` or ``vips``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hs2p.api import (
    DEFAULT_MASK_SAMPLING,
    SegmentationConfig,
    SlideSpec,
    TilingConfig,
    extract_tiles_to_tar,
    save_tiling_result,
    tile_slide,
)
from openslide import PROPERTY_NAME_MPP_X, OpenSlide
from simple import MIN_TISSUE, QUALITY, Job, job, report
from turbojpeg import TurboJPEG


def main(job: Job) -> None:
    os.environ["VIPS_CONCURRENCY"] = str(job.workers)
    result = tile_slide(
        SlideSpec(sample_id="slide", image_path=Path(job.slide), spacing_at_level_0=slide_mpp(job.slide)),
        tiling=TilingConfig(
            backend=job.backend,
            requested_spacing_um=job.mpp,
            requested_tile_size_px=job.tile_size,
            tolerance=0.02,
            overlap=0.0,
        ),
        segmentation=SegmentationConfig(method="hsv"),
        masks=replace(DEFAULT_MASK_SAMPLING, min_coverage={"tissue": MIN_TISSUE}),
        num_workers=job.workers,
    )
    save_tiling_result(result, output_dir=job.output)
    encoder = jpeg_encoder()
    extract_tiles_to_tar(result, job.output, jpeg_quality=QUALITY, jpeg_backend=encoder, num_workers=job.workers)
    report(len(result.x), note=f"{encoder} 4:2:0")


def slide_mpp(path: str) -> float:
    """Its vips backend does not find Aperio's scale where libvips was built without OpenSlide, so it is given."""
    with OpenSlide(path) as slide:
        return float(slide.properties[PROPERTY_NAME_MPP_X])


def jpeg_encoder() -> str:
    """TurboJPEG where the system has the library that PyTurboJPEG wraps."""
    try:
        TurboJPEG()
    except (RuntimeError, OSError):
        return "pil"
    return "turbojpeg"


if __name__ == "__main__":
    main(job())
