"""A script without a main guard gets one sentence, before any of its processes start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.small_slides import tissue_picture, write_slide

COHORT = """
from wsivit import Cohort, CohortOptions, TileOptions

def run():
    options = TileOptions(tile_size=32, tissue="none", codec="zstd")
    return Cohort({slides!r}, {out!r}, CohortOptions(workers=1)).tile(options)
"""
TRAIN = """
import multiprocessing
from wsivit import TrainOptions, train

def run():
    multiprocessing.set_start_method("spawn", force=True)  # as on macOS, on Windows, and from Python 3.14 on
    options = TrainOptions(pretrained=False, image_size=32, epochs=1, workers=1, device="cpu")
    return train([{slides!r}], label="region", model="test_vit", output={out!r}, options=options)
"""


def run_script(folder: Path, start: str, ending: str) -> subprocess.CompletedProcess[str]:
    slides = folder / "slides"
    slides.mkdir()
    write_slide(slides / "a.tiff", tissue_picture(100, 100))
    script = folder / "my_script.py"
    script.write_text(start.format(slides=str(slides), out=str(folder / "out")) + ending)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)


THREAD = "import threading\nthread = threading.Thread(target=run)\nthread.start()\nthread.join()"


@pytest.mark.parametrize(
    ("start", "ending"),
    [(COHORT, "run()"), (TRAIN, "run()"), (COHORT, THREAD)],
    ids=["cohort", "train", "cohort in a thread"],
)
def test_a_script_without_a_main_guard_gets_one_sentence(tmp_path: Path, start: str, ending: str) -> None:
    done = run_script(tmp_path, start, ending)
    sentence = done.stderr.strip().splitlines()[-1]
    assert "my_script.py starts worker processes" in sentence and 'if __name__ == "__main__":' in sentence
    assert done.stderr.count("my_script.py starts worker processes") == 1
    if ending == "run()":
        assert done.returncode != 0 and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_guarded_script_runs(tmp_path: Path) -> None:
    main = 'def main():\n    print(run().exit_code)\n\nif "__main__" == __name__:\n    main()'
    done = run_script(tmp_path, COHORT, main)
    assert done.stdout == "0\n" and done.returncode == 0, done.stderr


def test_a_guard_that_guards_nothing_is_found_out_by_the_workers(tmp_path: Path) -> None:
    """The check of the script is fooled: each process that it starts refuses, and the command ends with a sentence."""
    done = run_script(tmp_path, COHORT, "if __name__:\n    run()")
    assert done.returncode != 0
    assert "my_script.py starts worker processes" in done.stderr
    assert "the workers did not start" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1
