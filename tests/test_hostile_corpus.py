"""A sample of the shared corpus of bad slides, and some mutants of two bases; all of it is in ``tests/long``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.hostile_campaigns import fuzz, maker, unexpected_endings, write_jpeg2000_base, write_jpeg_base


def one_of_each() -> Callable[[dict[str, Any]], bool]:
    """Keep the first file of each category and expected end, of those that no other file is compared with."""
    seen = set()

    def keep(entry: dict[str, Any]) -> bool:
        kind = entry["cat"], entry["expect"]
        # What may end either way says little, what is big takes long.
        if kind in seen or entry["base"] not in ("good", "written") or entry["expect"] in ("big", "either"):
            return False
        seen.add(kind)
        return True

    return keep


@pytest.mark.slow
def test_bad_slides_end_as_expected(tmp_path: Path) -> None:
    judged, unexpected = unexpected_endings(write_jpeg_base(tmp_path / "base.svs"), tmp_path / "corpus", one_of_each())
    assert judged >= 15
    assert unexpected == {}


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_jpeg_base, write_jpeg2000_base])
def test_mutants_end_in_pixels_or_an_error(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    for mutant in fuzz(maker(), write(tmp_path / "base.svs"), tmp_path, range(4), ("--tissue", "none")):
        assert mutant.outcome.kind in ("ok", "error"), (mutant.seed, mutant.kinds, mutant.outcome.said)
        assert mutant.outcome.megabytes < 2000
        assert not mutant.silent, (mutant.seed, mutant.kinds)
