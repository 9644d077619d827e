"""Slides: one interface over a native decoder, OpenSlide, tiffslide and flat images."""

from __future__ import annotations

from wsivit.resolution import Level
from wsivit.slide.base import JpegColor, TileFailure
from wsivit.slide.info import SlideInfo
from wsivit.slide.native import NativeTiles
from wsivit.slide.opening import Reader, info, open_slide
from wsivit.slide.overview import Overview
from wsivit.slide.preflight import MAX_PIXELS
from wsivit.slide.slide import Slide

__all__ = [
    "MAX_PIXELS",
    "JpegColor",
    "Level",
    "NativeTiles",
    "Overview",
    "Reader",
    "Slide",
    "SlideInfo",
    "TileFailure",
    "info",
    "open_slide",
]
