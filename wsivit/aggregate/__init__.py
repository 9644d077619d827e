"""From tile scores to a score grid, and to a score of the whole slide. Pure."""

from wsivit.aggregate.slides import SlideScore, check_threshold, slide_scores
from wsivit.aggregate.stitching import CellStatus, FloatGrid, ScoreGrid, Window, entropy, smooth, stitch

__all__ = [
    "CellStatus",
    "FloatGrid",
    "ScoreGrid",
    "SlideScore",
    "Window",
    "check_threshold",
    "entropy",
    "slide_scores",
    "smooth",
    "stitch",
]
