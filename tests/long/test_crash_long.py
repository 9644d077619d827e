"""Every write that can fail, every error, 200 kills: of tile, predict and train.

``WSIVIT_LONG_KILLS`` (200), ``WSIVIT_LONG_STEP`` (1: every write) and ``WSIVIT_LONG_FIRST`` (0) make less of it; with
another ``WSIVIT_LONG_FIRST`` the random moments are others.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crash_helpers import (
    CASES,
    FAULTS,
    Commands,
    commands,
    fail_writes,
    kill_at_writes,
    news,
    stop_at_moments,
    whole,
)
from support.long_amounts import amount

STEP, FIRST, KILLS = amount("step", 1), amount("first", 0), amount("kills", 200)


@pytest.fixture(scope="module", params=CASES)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(CASES[request.param], tmp_path_factory.mktemp(request.param) / "scratch") as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS)
def test_every_write_that_fails(ours: Commands, fault: str, tmp_path: Path) -> None:
    ours.scratch = tmp_path
    print(fault, "changes:", fail_writes(ours, fault, STEP, FIRST))


def test_killed_at_every_write(ours: Commands, tmp_path: Path) -> None:
    ours.scratch = tmp_path
    print("changes:", kill_at_writes(ours, STEP, FIRST))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_200_random_moments(ours: Commands, stop: signal.Signals, tmp_path: Path) -> None:
    ours.scratch = tmp_path
    times = KILLS if stop == signal.SIGKILL else KILLS // 4
    assert stop_at_moments(ours, times, seed=int(stop) + 100 * FIRST, stop=stop) == times


@pytest.mark.parametrize("room", [64, 256, 1024])
def test_a_disk_that_is_really_full(ours: Commands, room: int, tmp_path: Path) -> None:
    """A file system of so many kilobytes more than what it begins with; skipped where none can be mounted."""
    ours.scratch = tmp_path
    expected, undisturbed = whole(ours)
    folder = ours.folder("full")
    used = sum(file.stat().st_size + 4096 for file in folder.rglob("*")) // 1024
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={used + room}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        subprocess.run(["cp", "-r", f"{kept}/.", folder], check=True)
        ended = ours.run(folder)
        if ended.code:
            said = news(ended, undisturbed)
            assert (ended.code, len(said)) == (7, 1), ended.said
            assert "No space left" in said[0]
        subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
        again = ours.run(folder)
        assert again.code == 0 or ended.code == 0, again.said
        assert ours.case.made(folder) == expected
    finally:
        subprocess.run(["umount", str(folder)], check=True)
