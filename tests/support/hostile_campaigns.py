"""The shared tool's corpus and mutations, run against ``wsivit tile``; imported by the quick and the long tests."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from support.hostile_helpers import MAKER, PROCESSES, Outcome, Tilers
from support.slide_helpers import texture, write_jpeg_slide

KINDS = {
    "ok": {"ok"},
    "ok_same": {"ok"},
    "empty": {"ok"},
    "reject": {"error"},
    "need_mpp": {"error"},
    "partial": {"error"},
    "nodetect": {"ok", "error"},
    "big": {"ok", "error"},
    "either": {"ok", "error"},
}
ARGUED = {
    "f_strips.tif": "a flat image in strips is read, in bounded memory: its own note allows it",
    "f_one_strip.tif": "likewise",
    "c_byteflip_zstd.tif": "a zstd frame without a checksum decodes to other bytes: nothing shows it",
}
"""Files of which the tool expects something else, and why wsivit does as it does."""
TEXT = "Aperio Image Library v1\r\n1800x1800|AppMag = 20|MPP = 0.4990|Title = a slide of a test"


def maker() -> Any:
    """The shared tool, as a module; skips the test where it is not at hand."""
    if not MAKER.exists():
        pytest.skip("the maker of bad slides is not at hand (it is looked for next to the folder WSIVIT_SLIDES)")
    spec = importlib.util.spec_from_file_location("make_bad_slides", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_jpeg_base(path: Path) -> Path:
    """An Aperio slide: RGB JPEG, tables apart, tiles of 240."""
    how: dict[str, Any] = {"rgb": True, "subsampling": "444", "tables": True, "tile": 240, "description": TEXT}
    write_jpeg_slide(path, texture(1800, 1800), **how)
    with tifffile.TiffFile(path, mode="r+") as tiff:  # only the description tells the scale
        tiff.pages[0].tags["ResolutionUnit"].overwrite(1)
    return path


def write_jpeg2000_base(path: Path) -> Path:
    """An Aperio-like pyramid in JPEG 2000; its JPEG tables, which the tool wants to spoil, mean nothing."""
    picture = texture(1800, 1800)
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            tiff.write(
                picture[::step, ::step],
                tile=(240, 240),
                photometric="rgb",
                compression="aperio_jp2000_rgb",  # what OpenSlide reads, too
                compressionargs={"level": 30},
                subfiletype=int(step > 1),
                description=TEXT if step == 1 else None,
                metadata=None,
                software="",
                extratags=[(347, 7, 64, b"\xff\xd8" + bytes(60) + b"\xff\xd9", True)] if step == 1 else (),
            )
    return path


@dataclass(frozen=True)
class Verdict:
    """How one file of the corpus ended, against what the tool expects."""

    name: str
    expected: str
    outcome: Outcome
    changed: int

    @property
    def good(self) -> bool:
        """Whether it ended as expected, and no tile of one that must not be wrong was changed."""
        silent = self.changed and self.expected in ("ok_same", "partial", "reject")
        return self.outcome.kind in KINDS[self.expected] and not silent


def judge_corpus(tool: Any, base: Path, folder: Path, keep: Callable[[dict[str, Any]], bool]) -> Iterator[Verdict]:
    """Make the corpus of a base, tile those files of it that are to be kept, and judge."""
    tool.corpus(base, folder)
    files = list(filter(keep, json.loads((folder / "manifest.json").read_text())["files"]))
    paths = {entry["name"]: folder / "files" / entry["name"] for entry in files}
    bases = {entry["base"] for entry in files} - {"written", "good"}
    with Tilers(folder / "out") as tilers:
        references = {name: tilers.tile(folder / "files" / name) for name in sorted(bases)}
        references["good"] = tilers.tile(base)
        assert references["good"].code == 0, references["good"].said
        for entry, outcome in zip(files, tilers.tile_all(paths.values()), strict=True):
            reference = references.get(entry["base"])
            changed = outcome.changed(reference) if reference is not None else 0
            yield Verdict(entry["name"], entry["expect"], outcome, changed)


def unexpected_endings(
    base: Path, folder: Path, keep: Callable[[dict[str, Any]], bool]
) -> tuple[int, dict[str, tuple[Any, ...]]]:
    """Judge the corpus of a base; return how many files were judged, and by name those that ended unexpectedly."""
    verdicts = list(judge_corpus(maker(), base, folder, keep))
    print(len(verdicts), "slides; peak", max(verdict.outcome.megabytes for verdict in verdicts), "MB")
    assert max(verdict.outcome.megabytes for verdict in verdicts) < 1000
    return len(verdicts), {
        v.name: (v.expected, v.outcome.kind, v.outcome.code, v.changed, v.outcome.said)
        for v in verdicts
        if not v.good and v.name not in ARGUED
    }


@dataclass(frozen=True)
class Mutant:
    """One mutation of a slide, and how it ended."""

    seed: int
    kinds: list[str]
    outcome: Outcome
    changed: int
    explained: bool
    """Whether compressed pixels, or the tables that they are decoded with, were changed: nothing need show that."""

    @property
    def silent(self) -> bool:
        """Whether tiles were changed, nothing said, and the damage could have been seen."""
        return bool(self.changed) and self.outcome.code == 0 and not self.explained


def fuzz(tool: Any, base: Path, folder: Path, seeds: range, words: tuple[str, ...] = ()) -> Iterator[Mutant]:
    """Tile mutants of a slide."""
    data = base.read_bytes()
    tiff = tool.Tiff(data)
    unseen = _unseen(tiff, len(data))
    with Tilers(folder) as tilers, ThreadPoolExecutor(PROCESSES) as pool:
        reference = tilers.tile(base, *words)
        assert reference.code == 0, reference.said

        def one(seed: int) -> Mutant:
            changed, kinds = tool.mutate(data, seed, tiff)
            path = folder / f"mutant-{seed}.svs"
            path.write_bytes(changed)
            outcome = tilers.tile(path, *words)
            path.unlink()
            return Mutant(seed, kinds, outcome, outcome.changed(reference), _touched(data, changed, unseen))

        yield from pool.map(one, seeds)


def _unseen(tiff: Any, size: int) -> np.ndarray:
    """Which bytes are compressed pixels, or the tables that they are decoded with."""
    unseen = np.zeros(size, bool)
    for number, directory in enumerate(tiff.ifds):
        entries = directory["ents"]
        if 347 in entries:
            unseen[entries[347]["data"] : entries[347]["data"] + entries[347]["cnt"]] = True
        for index in range(entries[324]["cnt"] if 324 in entries else 0):
            start = tiff.get(number, 324, index)
            unseen[start : start + tiff.get(number, 325, index)] = True
    return unseen


def _touched(data: bytes, changed: bytes, unseen: np.ndarray) -> bool:
    length = min(len(data), len(changed))
    before, after = (np.frombuffer(part, np.uint8)[:length] for part in (data, changed))
    return bool(((before != after) & unseen[:length]).any())
