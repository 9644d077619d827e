"""Two thousand TIFFs of odd structure: never wrong pixels, scale or tissue without an error.

``WSIVIT_LONG_ODD_TIFF=200`` reads fewer. Each part draws its own files, so that parts can be run one by one.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.long_amounts import amount
from support.odd_checks import examine_drawn
from support.odd_tiff import Odd, odd_tiffs

PARTS = 20
ALLOWED = 0.15  # refused, each with a reason (drawn files come in clusters)


@pytest.mark.parametrize("part", range(PARTS))
def test_odd_files_are_read_rightly_or_refused(tmp_path: Path, part: int) -> None:
    outcomes: Counter[str] = Counter()

    @hypothesis.seed(part)
    @settings(
        max_examples=max(1, amount("odd_tiff", 2000) // PARTS),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(odd_tiffs())
    def read(odd: Odd) -> None:
        outcomes[examine_drawn(tmp_path, odd)] += 1

    read()
    refused = {outcome: n for outcome, n in outcomes.items() if outcome != "read"}
    reasons = ("of its colour planes only", "strips lie outside the file")
    assert all(any(reason in outcome for reason in reasons) for outcome in refused), refused
    assert sum(refused.values()) <= max(2, ALLOWED * outcomes.total()), refused
    print(f"part {part}: {outcomes}")
