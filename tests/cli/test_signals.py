"""Ctrl-C and SIGTERM: one line, at once, exit code 130, in every verb and whatever the process is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run, write_store

from wsivit.cli.app import VERBS
from wsivit.store import Predictions, TileStore

LINE = "wsivit: interrupted: run the same command again to resume\n"
PATIENCE = 2.0
SLACK = float(os.environ.get("WSIVIT_TEST_SLACK", "3"))
"""Seconds more, for a machine that is busy with other tests."""


def interrupted(command: list[str], after: float, stop: signal.Signals, cwd: Path | None = None) -> bool:
    """Interrupt a command some seconds after it began to listen; check its answer; False where it was done before."""
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd) as process,
        ExitStack() as at_end,
    ):
        at_end.callback(process.kill)  # one that does not answer is not waited for
        while process.poll() is None and not listens(process.pid):
            time.sleep(0.002)
        time.sleep(after)
        process.send_signal(stop)
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
        took = time.monotonic() - began
    if process.returncode != 130:
        assert "Traceback" not in said
        return False
    assert said.splitlines(keepends=True)[-1] == LINE
    assert said.count(LINE) == 1
    assert "Traceback" not in said
    assert took < PATIENCE + SLACK
    return True


def listens(pid: int) -> bool:
    """Whether a process catches SIGTERM."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slide, a store with labels and predictions, and a run."""
    folder = tmp_path_factory.mktemp("interrupt")
    write_slide(folder / "s.tiff", tissue_picture(900, 800))
    store = write_store(folder, "one", columns=24, rows=12)
    values = np.full((len(store), 2), 0.5, np.float32)
    TileStore(store.path).write_predictions("other", Predictions(values, ("stroma", "tumor")))
    make_run(folder / "run")
    return folder


def words_of(verb: str, output: Path) -> list[str]:
    """A command of each verb that has something to do."""
    learn = "--label region --model test_vit --no-pretrained --image-size 48 --epochs 50 --workers 0 --device cpu -q"
    return {
        "info": ["info", "s.tiff"],
        "tile": ["tile", "s.tiff", "--tile-size", "32", "--tissue", "none", "-q", "-o", str(output)],
        "train": ["train", "one.zarr", *learn.split(), "-o", str(output / "run")],
        "evaluate": ["evaluate", "run", "one.zarr", "-o", str(output / "e"), "-q"],
        "compare": ["compare", "run", "run", "--data", "one.zarr", "-o", str(output / "c"), "-q"],
        "predict": ["predict", "run", "one.zarr", "--name", output.name, "-q"],
        "heatmap": ["heatmap", "one.zarr", "--run", "other", "-o", str(output)],
        "export": ["export", "one.zarr", "csv", "--run", "other", "-o", str(output / "a.csv")],
        "aggregate": ["aggregate", "one.zarr", "--run", "other", "-o", str(output / "s.csv")],
        "verify": ["verify", "one.zarr"],
        "demo": ["demo", "-o", str(output), "--size", "2048", "-q"],
    }.get(verb, [verb, "--help"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_while_it_imports_or_works(verb: str, workplace: Path, tmp_path: Path) -> None:
    words, stop = words_of(verb, tmp_path), signal.SIGTERM if len(verb) % 2 else signal.SIGINT
    after = float(np.random.default_rng(len(verb)).uniform(0, 0.3))
    interrupted([sys.executable, "-m", "wsivit", *words], after, stop, workplace)


BUSY = {
    "in a library that does not come back": "import numpy as np; np.linalg.svd(np.random.rand(2500, 2500))",
    "in an import of torch": "import torch, time; time.sleep(60)",
    "where the exception is swallowed": """
class Stubborn:
    def __del__(self): time.sleep(60)
import time
s = Stubborn(); del s; time.sleep(60)""",
    "in another thread": """
import time
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool: pool.submit(time.sleep, 60).result()""",
    "in its own except": """
import time
try: time.sleep(60)
except BaseException: time.sleep(60)""",
}


@pytest.mark.parametrize("code", BUSY.values(), ids=BUSY.keys())
def test_a_process_answers_that_is_busy(code: str) -> None:
    inside = "\n".join(f"    {line}" for line in code.strip().splitlines())
    script = f"from wsivit.cli.signals import answered\nwith answered():\n{inside}"
    assert interrupted([sys.executable, "-c", script], 0.5, signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored() -> None:
    script = "from wsivit.cli.signals import answered\nimport time\nwith answered(): time.sleep(1)"
    ignoring = f"trap '' INT; exec {sys.executable} -c '{script}'"
    assert not interrupted(["bash", "-c", ignoring], 0.1, signal.SIGINT)


def test_children_leave_it_to_their_parent() -> None:
    script = """
import os, signal, sys, time
from wsivit.cli.signals import answered
with answered():
    child = os.fork()
    if child == 0:
        time.sleep(0.5)
        os._exit(7)
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    # From 3.12 on Python warns of any fork beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_debug_shows_where_it_was() -> None:
    script = "from wsivit.cli.signals import answered\nimport time\nwith answered(debug=True): time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while not listens(process.pid):
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert "Traceback" in process.communicate(timeout=20)[1]
