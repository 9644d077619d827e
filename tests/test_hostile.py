"""Hostile slides: each ends as it deserves, never in a crash, a hang, a traceback, or pixels that are not its own."""

from __future__ import annotations

import re

import pytest
from support.hostile_helpers import Outcome, Tilers
from support.hostile_slides import CASES, Case, make_slides

WORDS = ("--tissue", "none", "--tile-size", "128", "--mpp", "0.499")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("hostile")
    made = list(make_slides(folder))
    with Tilers(folder) as tilers:
        found = tilers.tile_all([path for _, path in made], *WORDS)
        return {case.name: outcome for (case, _), outcome in zip(made, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_slide_ends_as_it_deserves(outcomes: dict[str, Outcome], case: Case) -> None:
    found = outcomes[case.name]
    assert (found.code, found.kind) == (case.code, "error" if case.code else "ok"), found.said
    assert re.search(case.words, found.said + found.printed), found.said + found.printed
    assert found.megabytes < 600
    if case.code not in (0, 4):
        assert found.said.startswith("wsivit: ")
        assert found.said.count("\n") == 1
        assert found.tiles is None
        return
    assert found.tiles is not None
    assert len(found.tiles) == 20
    assert sum(shown is None for shown in found.tiles.values()) == case.unreadable
    if case.name in SAME_PIXELS:
        assert found.changed(outcomes["good"]) == 0


SAME_PIXELS = {
    "a tail",
    "tile of zeros",
    "half a tile",
    "tile beyond",
    "tile of noise",
    "another tile's size",
    "a tile of a gigabyte",
    "a tile of scans",
}
