"""Predictions written block by block, dask, and stores that are not in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from support.store_helpers import SIZE, N, chunks, parameters, pictures, table, tree_digest, write_store

from wsivit.errors import OutputExistsError, StoreError, StoreLockedError, UnreadableTilesError, UsageError
from wsivit.store import Predictions, StoreWriter, TileStore
from wsivit.store import column_writer as blocks_module
from wsivit.store.verify import verify
from wsivit.store.zarr_codec import register

CLASSES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TileStore:
    monkeypatch.setattr(blocks_module, "BLOCK", 16)
    return TileStore(write_store(tmp_path / "a.zarr"))


@pytest.fixture
def values() -> np.ndarray:
    made = np.random.default_rng(0).random((N, 3), np.float32)
    made[3] = np.nan
    return made


def predict(store: TileStore, values: np.ndarray, attrs: dict[str, object], until: int | None = None) -> list[range]:
    with store.predictions_writer("run", CLASSES, attrs, ("logits",)) as writer:
        todo = writer.pending()
        for block in todo[:until]:
            writer.write(block, values[block.start : block.stop], values[block.start : block.stop] * 2)
        if until is None:
            writer.finish()
    return todo


def test_broken_off_predictions_go_on_to_the_same_bytes(store: TileStore, values: np.ndarray) -> None:
    assert [len(block) for block in predict(store, values, {"t": 1})] == [16, 16, 3]
    whole = tree_digest(store.path / "predictions")
    store.write_predictions("run", Predictions(values, CLASSES, {"t": 1}, values * 2))
    assert tree_digest(store.path / "predictions") == whole
    store.write_predictions("run", Predictions(values * 0, CLASSES))
    assert predict(store, values, {"t": 1}, until=2) == [range(16), range(16, 32), range(32, 35)]
    np.testing.assert_array_equal(store.predictions("run").probabilities, values * 0)
    assert predict(store, values, {"t": 1}) == [range(32, 35)]
    assert tree_digest(store.path / "predictions") == whole
    assert verify(store.path) == []
    theirs = zarr.open_array(store.path / "predictions/run/logits", mode="r")
    np.testing.assert_array_equal(theirs[...], values * 2)
    np.testing.assert_array_equal(store.predictions("run").logits, theirs[...])


def test_predictions_of_another_model_begin_anew(store: TileStore, values: np.ndarray) -> None:
    predict(store, values, {"model": "one"}, until=2)
    assert len(predict(store, values, {"model": "two"})) == 3


def test_unfinished_predictions_are_not_predictions(store: TileStore, values: np.ndarray) -> None:
    predict(store, values, {}, until=1)
    assert store.runs == []
    with pytest.raises(UsageError, match="it has none"):
        store.predictions("run")
    with store.predictions_writer("run", CLASSES, {}, ("logits",)) as writer:
        with pytest.raises(StoreError, match="2 blocks are not written"):
            writer.finish()
        with pytest.raises(StoreError, match="not a block"):
            writer.write(range(5, 10), values[5:10])
        with pytest.raises(StoreError, match="not a block"):
            writer.write(range(16, 32), values[:3])
        with pytest.raises(StoreError, match="not started with spread"):
            writer.write(range(16, 32), values[16:32], values[16:32], values[16:32])
        with pytest.raises(StoreLockedError, match="being written by process"):
            store.predictions_writer("run", CLASSES, {})


def test_views_and_spread_go_with_the_probabilities(store: TileStore, values: np.ndarray) -> None:
    views = np.random.default_rng(1).random((N, 8, 3), np.float32)
    store.write_predictions("run", Predictions(values, CLASSES, {}, views, values / 2))
    found = store.predictions("run")
    np.testing.assert_array_equal(found.logits, views)
    np.testing.assert_array_equal(found.spread, values / 2)
    assert verify(store.path) == []
    whole = tree_digest(store.path / "predictions")
    with store.predictions_writer("run", CLASSES, {}, ("views", "spread")) as writer:
        for block in writer.pending():
            part = slice(block.start, block.stop)
            writer.write(block, values[part], views[part], values[part] / 2)
        writer.finish()
    assert tree_digest(store.path / "predictions") == whole


def test_features_are_written_in_blocks_and_read_by_zarr(store: TileStore) -> None:
    made = np.random.default_rng(2).random((N, 5)).astype(np.float16)
    made[3] = np.nan
    for until in (1, None):
        with store.features_writer("vit", (5,), {"model": "m"}) as writer:
            todo = writer.pending()
            assert len(todo) == (3 if until else 2), "what was broken off goes on"
            for block in todo[:until]:
                writer.write(block, made[block.start : block.stop])
            if until is None:
                writer.finish()
        assert store.encoders == ([] if until else ["vit"])
    np.testing.assert_array_equal(store.features("vit").values, made)
    assert store.features("vit").attrs == {"model": "m"}
    theirs = zarr.open_array(store.path / "features/vit", mode="r")
    assert theirs.dtype == np.float16 and theirs.metadata.dimension_names == ("tile", "feature")
    np.testing.assert_array_equal(theirs[...], made)
    assert verify(store.path) == []
    with pytest.raises(UsageError, match="has no features 'uni'; it has vit"):
        store.features("uni")


def test_predictions_must_fit(store: TileStore) -> None:
    with pytest.raises(StoreError, match=r"must be \(35, 2\)"):
        store.write_predictions("run", Predictions(np.zeros((N, 3), np.float32), ("a", "b")))


# dask


def test_dask_reads_the_same_pixels(tmp_path: Path) -> None:
    store = TileStore(write_store(tmp_path / "a.zarr", unreadable=(4,)))
    lazy = store.dask(block=8)
    assert (lazy.shape, lazy.dtype, lazy.chunks[0]) == ((N - 1, SIZE, SIZE, 3), np.uint8, (8, 8, 8, 8, 2))
    with dask.config.set(scheduler="threads"):
        np.testing.assert_array_equal(lazy[8:30, 4:9].compute(), store.read(store.readable[8:30])[:, 4:9])
        np.testing.assert_array_equal(store.dask([7, 3]).compute(), store.read([7, 3]))
        with pytest.raises(UnreadableTilesError):
            store.dask(range(8)).compute()


# Any URL


def test_a_store_in_memory(tmp_path: Path, values: np.ndarray) -> None:
    url_store("memory://wsivit-tests/a.zarr", tmp_path, values)


def url_store(url: str, tmp_path: Path, values: np.ndarray) -> None:
    """Write, break off, go on, read, add to, verify and overwrite a store at a URL; then open it with zarr."""
    register()
    chosen = parameters()
    local = TileStore(write_store(tmp_path / "local.zarr", unreadable=(4,)))
    with StoreWriter.open(url, chosen, table(chosen)) as writer:
        writer.write_shard(range(8), chunks(chosen, range(8), (4,)))
    with pytest.raises(StoreError, match="not complete"):
        TileStore(url)
    with StoreWriter.open(url, chosen, table(chosen)) as writer:
        assert len(writer.pending()) == 4
    store = TileStore(write_store(url, unreadable=(4,)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(store.read(store.readable), local.read(local.readable))
    np.testing.assert_array_equal(zarr.open_array(f"{url}/tiles", mode="r")[5], local[5])
    for name in ("", "/tiles", "/status"):
        ours, theirs = (s.files.read(f"{name}/zarr.json".lstrip("/")) for s in (local, store))
        assert json.loads(ours) == json.loads(theirs)
    store.write_labels("region", np.zeros(N), ["a"])
    predict(store, values, {}, until=0)
    assert store.runs == []
    predict(store, values, {})
    assert (store.labels, store.runs) == (["region"], ["run"])
    np.testing.assert_array_equal(store.predictions("run").probabilities, values)
    assert verify(url) == []
    assert TileStore.is_store(url)
    assert not TileStore.is_store(url + "/labels")
    with pytest.raises(StoreError, match=r"use \.url"):
        store.path  # noqa: B018
    for _ in range(2):
        with StoreWriter.open(url, chosen, table(chosen), overwrite=True) as writer:
            assert not writer.done
    assert verify(write_store(url)) == []  # type: ignore[arg-type]
    store.files.remove("zarr.json")
    with pytest.raises(OutputExistsError):
        StoreWriter.open(url, chosen, table(chosen))
    assert pictures().shape == (N, SIZE, SIZE, 3)


def test_labels_say_where_they_are_from(store: TileStore) -> None:
    codes = np.arange(N) % 2
    store.write_labels("painted", codes, ["a", "b"], {"painted": [{"who": "ann", "tiles": N}]})
    assert store.label("painted").attrs == {"painted": [{"who": "ann", "tiles": N}]}
    store.write_labels("painted", codes, ["a", "b"])
    assert store.label("painted").attrs == {}
    assert verify(store.path) == []
