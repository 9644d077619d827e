"""The shared corpus of 180 bad slides, on two bases that the test writes, and some mutants of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.hostile_campaigns import ARGUED, fuzz, judge_corpus, maker, write_jpeg2000_base, write_jpeg_base

HUGE = {"g_single_level_100k.tif", "g_white_50k.tif", "g_single_level_20k.tif"}
"""Billions of pixels to decode: in the long tests."""
TABLES = {"c_jpegtables_zeroed.svs", "c_jpegtables_missing.svs"}
"""JPEG's tables mean nothing to JPEG 2000."""


def all_but_huge(entry: dict[str, Any]) -> bool:
    return entry["name"] not in HUGE


def made_of_the_base(entry: dict[str, Any]) -> bool:
    """The other files are the same on every base."""
    return (
        entry["cat"] in ("truncated", "tile", "ifd", "mpp") and entry["base"] == "good" and entry["name"] not in TABLES
    )


@pytest.mark.slow
@pytest.mark.parametrize(("write", "keep"), [(write_jpeg_base, all_but_huge), (write_jpeg2000_base, made_of_the_base)])
def test_every_bad_slide_ends_as_it_deserves(tmp_path: Path, write, keep) -> None:  # type: ignore[no-untyped-def]
    verdicts = list(judge_corpus(maker(), write(tmp_path / "base.svs"), tmp_path / "corpus", keep))
    bad = [
        (v.name, v.expected, v.outcome.kind, v.outcome.code, v.changed, v.outcome.said) for v in verdicts if not v.good
    ]
    assert {name for name, *_ in bad} <= set(ARGUED), bad
    assert max(verdict.outcome.megabytes for verdict in verdicts) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_jpeg_base, write_jpeg2000_base])
def test_mutants_end_in_pixels_or_an_error(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    for mutant in fuzz(maker(), write(tmp_path / "base.svs"), tmp_path, range(15), ("--tissue", "none")):
        assert mutant.outcome.kind in ("ok", "error"), (mutant.seed, mutant.kinds, mutant.outcome.said)
        assert mutant.outcome.megabytes < 2000
        assert not mutant.silent, (mutant.seed, mutant.kinds)
