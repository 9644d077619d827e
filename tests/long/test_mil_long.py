"""Statistics of slide-level figures over many simulated cohorts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "mil"))

from test_statistics import conformal_coverage, covered


def test_intervals_of_300_cohorts_cover_the_truth() -> None:
    assert 0.92 <= covered(300, seed=1) <= 0.97


def test_sets_of_300_cohorts_cover_what_they_promise() -> None:
    assert 0.895 <= conformal_coverage(0.0, seed=1, cohorts=300)[0] <= 0.93
