"""The long versions of the store's tests: every moment, every file, many bits. Run with ``pytest tests/long``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.long_amounts import amount
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import N, write_store
from test_store_kill import kill_at_random_moments, kill_at_syncs, kill_while_overwriting, many_at_once
from test_store_verify import damaged_files, flipped_bits, lost_files

from wsivit.store import Predictions, TileStore
from wsivit.tiling import TileOptions, tile

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


@pytest.fixture
def tiled(tmp_path: Path) -> Path:
    """A store as `tile` makes it, with labels, quality control and predictions: a file of every kind."""
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(700, 500), tile=64)
    path = tile(slide, tmp_path, TileOptions(tile_size=32, min_tissue=0.0)).store.path
    n = len(TileStore(path))
    TileStore(path).write_labels("region", np.arange(n) % 2, ["a", "b"])
    values = np.full((n, 2), 0.5, np.float32)
    TileStore(path).write_predictions("vit", Predictions(values, ("a", "b"), {"t": 1e-05}, values))
    return path


@pytest.mark.parametrize("kind", ["store", "tiled"])
def test_1000_flipped_bits(kind: str, request: pytest.FixtureRequest) -> None:
    flipped_bits(request.getfixturevalue(kind), amount("flips", 1000), seed=1)


@pytest.mark.parametrize("kind", ["store", "tiled"])
def test_100_files_cut_missing_or_empty(kind: str, request: pytest.FixtureRequest) -> None:
    times = amount("losses", 100)
    found = lost_files(request.getfixturevalue(kind), times, seed=2)
    assert found == {"cut": times, "missing": times, "empty": times}


@pytest.mark.parametrize("seed", range(4))
def test_every_file_missing_empty_or_cut(store: Path, seed: int) -> None:
    damaged_files(store, seed)
