"""Microns per pixel: reading it from every source, agreeing on one, and planning how to reach another. Pure."""

from __future__ import annotations

from wsivit.resolution.plan import Downscale, Level, ReadPlan, plan_downsample, plan_read
from wsivit.resolution.scale import (
    MPP_RANGE,
    Confidence,
    ScaleSource,
    ScaleVerdict,
    judge_scale,
    scale_sources,
)

__all__ = [
    "MPP_RANGE",
    "Confidence",
    "Downscale",
    "Level",
    "ReadPlan",
    "ScaleSource",
    "ScaleVerdict",
    "judge_scale",
    "plan_downsample",
    "plan_read",
    "scale_sources",
]
