"""What predictions record of the tiles that their model learned from, and that heatmaps say it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from support.train_helpers import make_run, write_store

from wsivit.data.labelled_tiles import samples_from_stores
from wsivit.data.splits import split_samples, write_split
from wsivit.heatmap import read_heatmap_data
from wsivit.inference import PredictOptions, predict
from wsivit.models.run_folder import RunMetadata
from wsivit.store import TileStore
from wsivit.training.parts import Parts

CPU = PredictOptions(device="cpu", allow_mismatch=True)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, TileStore, NDArray[np.int64]]:
    """A run folder that says it learned from half a slide, that slide, and the tiles it learned from."""
    store = write_store(tmp_path, "a", columns=8, rows=6)
    run = make_run(tmp_path / "vit")
    samples = samples_from_stores([store.path], "region")
    split = split_samples(samples)
    write_split(run / "split.csv", samples, split)
    replace(RunMetadata.read(run), data=Parts(samples, split, [], []).provenance(), split={"file": "split.csv"}).write(
        run
    )
    return run, store, samples.index[split.of(0)]


def test_the_tiles_learned_from_are_those_of_the_split(trained: tuple[Path, TileStore, NDArray[np.int64]]) -> None:
    run, store, learned = trained
    store = predict(run, store.path, options=CPU)
    training = read_heatmap_data(store).training
    np.testing.assert_array_equal(np.flatnonzero(training.tiles), learned)
    assert training.share == pytest.approx(len(learned) / len(store)) and 0 < training.share < 1


def test_another_slide_was_not_seen(trained: tuple[Path, TileStore, NDArray[np.int64]], tmp_path: Path) -> None:
    other = predict(trained[0], write_store(tmp_path, "b", columns=4, rows=3, seed=1).path, options=CPU)
    assert other.predictions("vit").attrs["trained_on"] == []
    assert read_heatmap_data(other).training.warnings == ()


@pytest.mark.parametrize(("size", "overlap"), [(24, 0), (96, 0), (48, 24), (40, 13)])
def test_tiles_of_another_lattice_count_where_they_overlap(
    trained: tuple[Path, TileStore, NDArray[np.int64]], tmp_path: Path, size: int, overlap: int
) -> None:
    run, store, learned = trained
    again = write_store(tmp_path / "again", "a", columns=384 // size, rows=288 // size, size=size, overlap=overlap)
    training = read_heatmap_data(predict(run, again.path, options=CPU)).training
    seen = shapely.union_all(shapely.box(*store.grid.boxes0(store.col, store.row)[learned].T))
    tiles = shapely.box(*again.grid.boxes0(again.col, again.row).T)
    np.testing.assert_array_equal(training.tiles, shapely.area(shapely.intersection(tiles, seen)) > 1e-6)


def test_a_run_without_its_split_says_that_it_learned_from_the_slide(
    trained: tuple[Path, TileStore, NDArray[np.int64]],
) -> None:
    run, store, _ = trained
    (run / "split.csv").unlink()
    training = read_heatmap_data(predict(run, store.path, options=CPU)).training
    assert training.share is None and training.warnings
