"""Hostile slides, the long way: the whole corpus, 2,000 mutants of each of two bases, a thousand slides at once.

Run with ``pytest tests/long/test_hostile_long.py -s``. In pieces: ``WSIVIT_LONG_FIRST=400 WSIVIT_LONG_MUTANTS=100`` are
the mutants 400 to 499. ``WSIVIT_LONG_READS`` makes less of the reads, ``WSIVIT_LONG_PROCESSES`` says how many slides
are tiled at a time.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.hostile_campaigns import (
    TEXT,
    fuzz,
    maker,
    unexpected_endings,
    write_jpeg2000_base,
    write_jpeg_base,
)
from support.long_amounts import amount
from support.slide_helpers import texture, write_jpeg_slide

from wsivit import open_slide
from wsivit.slide import Slide

READS = amount("reads", 100_000)
SEEDS = range(amount("first", 0), amount("first", 0) + amount("mutants", 2000))


def test_the_complete_corpus_of_a_real_slide(tmp_path: Path, real_slide) -> None:  # type: ignore[no-untyped-def]
    judged, unexpected = unexpected_endings(
        real_slide("CMU-1-Small-Region.svs"), tmp_path / "corpus", lambda entry: True
    )
    assert judged == 180
    assert unexpected == {}


HUGE = {"g_single_level_100k.tif", "g_white_50k.tif", "g_single_level_20k.tif"}
"""Billions of pixels to decode: with the real slide only."""
TABLES = {"c_jpegtables_zeroed.svs", "c_jpegtables_missing.svs"}
"""JPEG's tables mean nothing to JPEG 2000."""


def all_but_huge(entry: dict[str, Any]) -> bool:
    return entry["name"] not in HUGE


def made_of_the_base(entry: dict[str, Any]) -> bool:
    """The other files are the same on every base."""
    return (
        entry["cat"] in ("truncated", "tile", "ifd", "mpp") and entry["base"] == "good" and entry["name"] not in TABLES
    )


@pytest.mark.parametrize(("write", "keep"), [(write_jpeg_base, all_but_huge), (write_jpeg2000_base, made_of_the_base)])
def test_every_bad_slide_ends_as_expected(tmp_path: Path, write, keep) -> None:  # type: ignore[no-untyped-def]
    judged, unexpected = unexpected_endings(write(tmp_path / "base.svs"), tmp_path / "corpus", keep)
    assert judged > 60
    assert unexpected == {}


@pytest.mark.parametrize("write", [write_jpeg_base, write_jpeg2000_base])
def test_mutants(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    found = list(fuzz(maker(), write(tmp_path / "base.svs"), tmp_path, SEEDS, ("--tissue", "none")))
    print(
        write.__name__,
        SEEDS,
        Counter(mutant.outcome.kind for mutant in found),
        Counter(mutant.outcome.code for mutant in found),
        f"peak {max(mutant.outcome.megabytes for mutant in found)} MB,",
        f"longest {max(mutant.outcome.seconds for mutant in found):.1f} s,",
        f"{sum(mutant.changed > 0 for mutant in found)} with pixels changed where only a checksum can tell",
    )
    bad = [(m.seed, m.kinds, m.outcome.said) for m in found if m.outcome.kind not in ("ok", "error")]
    assert not bad
    assert not [(mutant.seed, mutant.kinds) for mutant in found if mutant.silent]
    assert max(mutant.outcome.megabytes for mutant in found) < 2000


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide"])
def test_1000_slides_in_one_process(tmp_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    base = write_jpeg_slide(tmp_path / "base.svs", texture(640, 512), tables=True, description=TEXT)
    slides = []
    memory, most = 0, 0
    for number in range(1000):
        path = tmp_path / f"{number}.svs"
        path.symlink_to(base)
        slides.append(open_slide(path, reader=reader))
        slides[-1].read(slides[-1].plan(0.499), 0, 0, 256, 256)
        memory = memory or (_status("VmRSS") if number == 20 else 0)  # the first few load libraries
        most = max(most, len(list(Path("/proc/self/fd").iterdir())))
    for slide in slides:
        slide.read(slide.plan(0.499), 100, 100, 256, 256)
        most = max(most, len(list(Path("/proc/self/fd").iterdir())))
    grown = (_status("VmRSS") - memory) / 1024
    print(f"{reader}: 1000 slides open, at most {most} file descriptors, grown by {grown:.0f} MB")
    assert most <= 64
    assert grown < 50


class _Reads:
    """Regions of a slide that was opened before the fork, each with the digest that it must have."""

    def __init__(self, slide: Slide, reads: int) -> None:
        self.slide, self.reads, self.plan = slide, reads, slide.plan(0.499)
        rng = np.random.default_rng(0)
        self.places = [tuple(place) for place in rng.integers(0, 400, (64, 2)).tolist()]
        self.digests = [self._digest(place) for place in range(64)]

    def _digest(self, place: int) -> str:
        return hashlib.sha1(self.slide.read(self.plan, *self.places[place], 64, 64)).hexdigest()

    def __len__(self) -> int:
        return self.reads

    def __getitem__(self, index: int) -> bool:
        place = index * 31 % 64
        return self._digest(place) != self.digests[place]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("reader", ["native", "openslide", "tiffslide"])
def test_reads_over_4_forked_workers(tmp_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    from torch.utils.data import DataLoader

    path = write_jpeg_slide(tmp_path / "base.svs", texture(640, 512), tables=True, description=TEXT)
    with open_slide(path, reader=reader) as slide:
        data = _Reads(slide, READS)
        loader = DataLoader(data, batch_size=500, num_workers=4, multiprocessing_context="fork")  # type: ignore[arg-type]
        wrong = sum(int(batch.sum()) for batch in loader)
    print(f"{reader}: {READS} reads over 4 forked workers, {wrong} wrong")
    assert wrong == 0
