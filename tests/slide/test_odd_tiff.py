"""Odd TIFF structures: a sample of what the long test goes through, and what it found, each by itself."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from support.odd_checks import examine_drawn
from support.odd_tiff import Odd, odd_tiffs, paint, shrink

from wsivit import open_slide


def test_a_sample_of_odd_files_is_read_rightly(tmp_path: Path) -> None:
    outcomes: list[str] = []

    @hypothesis.seed(20)
    @settings(
        max_examples=25, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(odd_tiffs())
    def read(odd: Odd) -> None:
        outcomes.append(examine_drawn(tmp_path, odd))

    read()
    assert outcomes.count("read") >= 0.9 * len(outcomes), outcomes


@pytest.mark.parametrize("marked", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_another_round_piece_of_tissue_is_no_level(tmp_path: Path, marked: int, seed: int) -> None:
    """Both have a round outline in the middle of bright ground: only details tell them apart."""
    slide, other = paint(seed, 420, 360), paint(seed + 20, 210, 180)
    how = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(slide, **how)
        tiff.write(other, **how)
        tiff.write(shrink(slide, 4), subfiletype=marked, **how)
    with open_slide(tmp_path / "a.tif", mpp=0.5) as opened:
        assert [level.downsample_x for level in opened.levels] == [1, 4]
        assert [(one.width, one.height) for one in opened.info().others] == [(210, 180)]
        read = opened.read(opened.plan(1.0), 0, 0, 210, 180).astype(int)
    assert np.abs(read - shrink(slide, 2)).mean() < 1
