"""Writes that fail, kills and interrupts at any moment: reported, nothing left behind, resumed to the same bytes.

These look at some of the moments; ``tests/long`` looks at all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crash_helpers import CASES, FAULTS, Commands, commands, fail_writes, kill_at_writes, stop_at_moments


@pytest.fixture(scope="module", params=["tile", "predict"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(CASES[request.param], tmp_path_factory.mktemp(request.param) / "scratch") as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_that_fails(ours: Commands, fault: str, tmp_path: Path) -> None:
    ours.scratch = tmp_path
    assert fail_writes(ours, fault, step=73, first=len(fault)) > 20


def test_killed_at_a_write(ours: Commands, tmp_path: Path) -> None:
    ours.scratch = tmp_path
    # The eighth change of `predict` is within the group of predictions, before there is anything in it.
    assert kill_at_writes(ours, step=97, first=8) > 40


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_a_random_moment(ours: Commands, stop: signal.Signals, tmp_path: Path) -> None:
    ours.scratch = tmp_path
    assert stop_at_moments(ours, times=1, seed=int(stop), stop=stop) == 1
