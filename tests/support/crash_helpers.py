"""Commands that are killed, interrupted, or whose n-th write fails; and what must be true afterwards."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import tree_digest
from support.train_helpers import make_run, write_store

HERE = Path(__file__).parent
WRITE, NAME, SYNC, GONE = 1, 2, 4, 8
FAULTS = {
    "ENOSPC": (errno.ENOSPC, WRITE | NAME, True),  # a full disk stays full
    "EIO": (errno.EIO, WRITE | SYNC, False),
    "EACCES": (errno.EACCES, NAME, False),
}
"""Error, the kinds of call that it comes from, and whether it stays."""
TEMPORARY = (".tmp-", ".lock", ".new", ".old")


@dataclass(frozen=True)
class Case:
    """A command, what it needs, and what it makes.

    Attributes
    ----------
    words : list of str
        Run in the folder that `prepare` filled.
    prepare : callable
        From a folder to nothing.
    made : callable
        From the folder to what was made: name to content, all that must come out the same.
    imports : str
        Code that is run once, before the commands.
    """

    words: list[str]
    prepare: Callable[[Path], None]
    made: Callable[[Path], dict[str, Any]]
    imports: str
    done: str = "nothing like this"
    """What it says where all was done before it was stopped, if it then refuses to do it again."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    seconds: float
    seen: int


@dataclass
class Commands:
    """Runs the commands of a case, each in a folder of its own."""

    case: Case
    scratch: Path
    process: subprocess.Popen[str]

    def folder(self, name: str) -> Path:
        """Make a folder with what the command needs; every one by the same name, as stores tell it."""
        template, folder = self.scratch / "template", self.scratch / name / "here"
        if not template.exists():
            template.mkdir()
            self.case.prepare(template)
        shutil.copytree(template, folder)
        return folder

    def run(
        self, folder: Path, fault: tuple[int, int, int, int] = (-1, 0, 15, 0), after: float | None = None, stop: int = 9
    ) -> Ended:
        """Run it once.

        Parameters
        ----------
        folder : Path
        fault : (int, int, int, int)
            The n-th change, its error (0: SIGKILL), kinds of change, whether it stays.
        after : float, optional
            Seconds after which it gets the signal `stop`.
        """
        said = folder.parent / "said"
        seen = said.with_name("out.seen")
        seen.unlink(missing_ok=True)
        order = {"folder": str(folder), "words": self.case.words, "fault": fault, "after": after, "signal": int(stop)}
        order |= {"stdout": str(said.with_name("out")), "stderr": str(said)}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        count = int(seen.read_text()) if seen.exists() else -1
        return Ended(answer["code"], said.read_text(), answer["seconds"], count)


@contextmanager
def commands(case: Case, scratch: Path) -> Iterator[Commands]:
    """Begin the process that runs a case's commands; skips the test where there is no C compiler."""
    library = scratch / "faults.so"
    scratch.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("making writes fail needs Linux and a C compiler")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True, capture_output=True
    )
    environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])
    process = subprocess.Popen(
        [sys.executable, HERE / "fault_server.py", library, case.imports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Commands(case, scratch, process)
    finally:
        process.communicate(timeout=600)  # a busy machine takes long to let go of torch


def strays(folder: Path) -> list[str]:
    """Names of what should not be left."""
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if any(t in path.name for t in TEMPORARY)]
    # Predictions that were begun wait there to be gone on with.
    return [name for name in found if not name.endswith("predictions/.tmp-run")]


def whole(ours: Commands) -> tuple[dict[str, Any], Ended]:
    """What comes out undisturbed, and how it ended."""
    folder = ours.folder("whole")
    ended = ours.run(folder)
    assert ended.code == 0, ended.said
    assert strays(folder) == []
    return ours.case.made(folder), ended


def news(ended: Ended, undisturbed: Ended) -> list[str]:
    """What it said that it does not always say."""
    return [line for line in ended.said.splitlines() if line not in undisturbed.said.splitlines()]


def goes_on(ours: Commands, folder: Path, expected: dict[str, Any], what: str) -> None:
    """Run again, undisturbed: all is as if nothing had been."""
    again = ours.run(folder)
    assert again.code == 0 or ours.case.done in again.said, f"{what}: {again.said}"
    assert ours.case.made(folder) == expected, what
    assert strays(folder) == [], what
    assert not list(folder.glob("*/predictions/.tmp*"))
    shutil.rmtree(folder.parent)


def fail_writes(ours: Commands, fault: str, step: int, first: int = 0) -> int:
    """Let every `step`-th change fail, each in a run of its own; return how many changes there are."""
    expected, undisturbed = whole(ours)
    error, kinds, stays = FAULTS[fault]
    for n in range(first, 100_000, step):
        what = f"{fault} at change {n}"
        folder = ours.folder(f"{fault}-{n}")
        ended = ours.run(folder, (n, error, kinds, stays))
        if ended.seen <= n:
            assert ended.code == 0, f"{what}: {ended.said}"
            assert ours.case.made(folder) == expected
            return ended.seen
        if ended.code == 0:  # of what went wrong nothing was needed
            assert ours.case.made(folder) == expected, what
        else:
            assert ended.code == 7, f"{what}: {ended.code} {ended.said}"
            assert len(news(ended, undisturbed)) == 1, f"{what}: {ended.said}"
        assert strays(folder) == [], f"{what}: {strays(folder)} {ended.said}"
        goes_on(ours, folder, expected, what)
    raise AssertionError("it does not end")


def kill_at_writes(ours: Commands, step: int, first: int = 0) -> int:
    """Kill at every `step`-th change; return how many there are."""
    expected, _ = whole(ours)
    for n in range(first, 100_000, step):
        folder = ours.folder(f"kill-{n}")
        ended = ours.run(folder, (n, 0, 15, 0))
        if ended.code == 0:
            return ended.seen
        assert ended.code == -signal.SIGKILL, ended.said
        goes_on(ours, folder, expected, f"killed at change {n}")
    raise AssertionError("it does not end")


def stop_at_moments(ours: Commands, times: int, seed: int, stop: int = signal.SIGKILL) -> int:
    """Stop at so many random moments; return how many of them hit."""
    expected, undisturbed = whole(ours)
    rng, hits = np.random.default_rng(seed), 0
    for k in range(20 * times):
        folder = ours.folder(f"moment-{k}")
        while hits < times:
            ended = ours.run(folder, after=float(rng.uniform(0, 1.05 * undisturbed.seconds)), stop=stop)
            if ended.code == 0 or ours.case.done in ended.said:
                break
            hits += 1
            if stop == signal.SIGKILL:
                assert ended.code == -signal.SIGKILL, ended.said
            elif ended.code != -stop:  # before it listened
                assert ended.code == 130, f"{ended.code} {ended.said}"
                assert len(news(ended, undisturbed)) == 1 and "interrupted" in ended.said, ended.said
        goes_on(ours, folder, expected, f"moment {k}")
        if hits >= times:
            return hits
    raise AssertionError(f"only {hits} of {times} hit")


# The cases


def _tile_inputs(folder: Path) -> None:
    write_slide(folder / "s.tiff", tissue_picture(700, 500), tile=64)
    square = {"type": "Polygon", "coordinates": [[[0, 0], [350, 0], [350, 500], [0, 500], [0, 0]]]}
    feature = {"type": "Feature", "geometry": square, "properties": {"classification": {"name": "left"}}}
    (folder / "s.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


TILE = Case(
    ["tile", "s.tiff", "-o", "out", "--tile-size", "16", "--tissue", "none", "--annotations", "s.geojson", "-q"],
    _tile_inputs,
    lambda folder: tree_digest(folder / "out"),
    "import wsivit.tiling.tile, wsivit.cli.slides, wsivit.tiling.annotations, PIL.Image, imagecodecs._zstd\n"
    "PIL.Image.preinit()\nimport wsivit.tiling.tiling_plan as plan\nplan._shard_tiles = lambda options: 256",
)


def _predict_inputs(folder: Path) -> None:
    write_store(folder, "one", columns=16, rows=8)
    make_run(folder / "run")


PREDICT = Case(
    ["predict", "run", "one.zarr", "-q"],
    _predict_inputs,
    lambda folder: tree_digest(folder / "one.zarr"),
    "import wsivit.inference.predict, wsivit.models.classifier_folder, wsivit.cli.models\n"
    "import transformers.models.timm_wrapper.modeling_timm_wrapper\n"
    "import wsivit.store.column_writer as b\nb.BLOCK = 32",
)


def _run_made(folder: Path) -> dict[str, Any]:
    run = folder / "run"
    made = tree_digest(run)
    contract = json.loads((run / "wsivit.json").read_text())
    for of_machine in ("seconds_per_epoch", "memory_mb"):
        contract["validation"].pop(of_machine, None)
    told = {name: digest for name, digest in made.items() if "/" not in name and name != "wsivit.json"}
    checkpoints = sorted(name for name in made if name.startswith("checkpoints/"))
    return told | {"contract": contract, "checkpoints": checkpoints}


def _train_inputs(folder: Path) -> None:
    write_store(folder, "one", columns=12, rows=6, size=32)


LEARN = "--label region --model test_vit --no-pretrained --image-size 32 --epochs 2 --batch-size 32 --workers 0"
TRAIN = Case(
    ["train", "one.zarr", *LEARN.split(), "--device", "cpu", "-o", "run", "-q"],
    _train_inputs,
    _run_made,
    "import wsivit.training.train, wsivit.training.trainer, wsivit.cli.models, sklearn.model_selection, rich.live\n"
    "import transformers.models.timm_wrapper.modeling_timm_wrapper, PIL.Image, io\n"
    "from transformers.conversion_mapping import get_checkpoint_conversion_mapping as mapping\nmapping('')\n"
    "PIL.Image.preinit()\n"
    # Most of a run's time would be pictures: what they need is loaded once, and they are small.
    "wsivit.evaluation.figures.DPI = 20\nwsivit.training.trainer._draw_training_tiles.__defaults__ = (1,)\n"
    "wsivit.evaluation.figures.new_figure(1, 1)[0].savefig(io.BytesIO(), dpi=20)",
    "there is a finished run already",
)
CASES = {"tile": TILE, "predict": PREDICT, "train": TRAIN}
