"""Hostile slides, the long way: the whole corpus, 2,000 mutants of each of two bases, a thousand slides at once.

Run with ``pytest tests/long/test_hostile_long.py -s``; WSIVIT_MUTANTS sets how many mutants.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile_campaigns import ARGUED, fuzz, judge_corpus, maker, write_jpeg2000_base, write_jpeg_base

MUTANTS = int(os.environ.get("WSIVIT_MUTANTS", "2000"))


def test_the_whole_corpus_of_a_real_slide(tmp_path: Path, real_slide) -> None:  # type: ignore[no-untyped-def]
    base = real_slide("CMU-1-Small-Region.svs")
    verdicts = list(judge_corpus(maker(), base, tmp_path / "corpus", lambda entry: True))
    bad = [
        (v.name, v.expected, v.outcome.kind, v.outcome.code, v.changed, v.outcome.said) for v in verdicts if not v.good
    ]
    print(len(verdicts), "slides; peak", max(v.outcome.megabytes for v in verdicts), "MB; not as expected:", bad)
    assert {name for name, *_ in bad} == set(ARGUED), bad


@pytest.mark.parametrize("write", [write_jpeg_base, write_jpeg2000_base])
def test_mutants(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    found = list(fuzz(maker(), write(tmp_path / "base.svs"), tmp_path, range(MUTANTS), ("--tissue", "none")))
    print(
        Counter(mutant.outcome.kind for mutant in found),
        Counter(mutant.outcome.code for mutant in found),
        f"peak {max(mutant.outcome.megabytes for mutant in found)} MB,",
        f"longest {max(mutant.outcome.seconds for mutant in found):.1f} s,",
        f"{sum(mutant.changed > 0 for mutant in found)} with pixels changed where only a checksum can tell",
    )
    assert {mutant.outcome.kind for mutant in found} <= {"ok", "error"}
    assert not [mutant.seed for mutant in found if mutant.silent]
    assert max(mutant.outcome.megabytes for mutant in found) < 2000
