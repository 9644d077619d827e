"""`wsivit tile` killed at 50 random moments goes on to the bytes of an unbroken run. Run with ``pytest tests/long``."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_memory_long import vast_slide

KILLS = int(os.environ.get("WSIVIT_KILLS", "50"))


def start(slide: Path, output: Path) -> subprocess.Popen[bytes]:
    words = ["tile", slide, "-o", output, "--mpp", "0.5", "--tile-size", "512", "--codec", "zstd", "--quiet"]
    return subprocess.Popen([sys.executable, "-m", "wsivit", *words], stdout=subprocess.DEVNULL)


def content(output: Path) -> dict[str, str]:
    """Every file of the store and the preview, with its sha256."""
    files = [path for path in output.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_at_random_moments(tmp_path: Path) -> None:
    slide = vast_slide(tmp_path / "s.svs", 20_480, 20_480)
    begun = time.monotonic()
    assert start(slide, tmp_path / "whole").wait() == 0
    takes, unbroken = time.monotonic() - begun, content(tmp_path / "whole")
    assert len([name for name in unbroken if "/tiles/c." in name]) > 2
    rng, output, finished, killed = random.Random(0), tmp_path / "broken", 0, 0
    while killed < KILLS:
        process = start(slide, output)
        try:
            assert process.wait(rng.uniform(0.2, 1.2) * takes) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            continue
        assert content(output) == unbroken
        shutil.rmtree(output)
        finished += 1
    assert start(slide, output).wait() == 0
    assert content(output) == unbroken
    sys.stderr.write(f"{killed} kills, {finished + 1} runs that came to their end\n")
