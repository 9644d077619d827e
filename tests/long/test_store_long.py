"""The long versions of the store's tests: every moment, every file, many bits. Run with ``pytest tests/long``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from store_helpers import N, write_store
from test_store_kill import kill_at_random_moments, kill_at_syncs, kill_while_overwriting, many_at_once
from test_store_verify import damaged_files, flipped_bits

from wsivit.store import Predictions, TileStore

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = write_store(tmp_path / "a.zarr", unreadable=(4,))
    TileStore(path).write_labels("region", np.arange(N) % 2, ["a", "b"])
    TileStore(path).write_predictions("vit", Predictions(np.full((N, 2), 0.5, np.float32), ("a", "b"), {"t": 1e-05}))
    return path


def test_killed_at_50_random_moments(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, kills=50, seed=1)


def test_killed_at_every_sync(tmp_path: Path) -> None:
    assert kill_at_syncs(tmp_path, step=1) > 50


def test_killed_at_every_sync_while_overwriting(tmp_path: Path) -> None:
    kill_while_overwriting(tmp_path, step=1)


def test_8_processes_50_times(tmp_path: Path) -> None:
    many_at_once(tmp_path, processes=8, rounds=50)


def test_1000_flipped_bits(store: Path) -> None:
    flipped_bits(store, 1000, seed=1)


@pytest.mark.parametrize("seed", range(4))
def test_every_file_missing_empty_or_cut(store: Path, seed: int) -> None:
    damaged_files(store, seed)
