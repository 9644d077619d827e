"""The index of many stores, and the order in which an epoch visits their tiles."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.store_helpers import N, parameters, pictures, write_store

import wsivit
from wsivit.data.index import labelled_index, shards_of
from wsivit.data.labelled_tiles import samples_from_stores
from wsivit.data.loading import load_samples
from wsivit.data.shard_shuffle import OrderOptions, epoch_order
from wsivit.errors import InputNotFoundError, StoreMismatchError, UsageError
from wsivit.store import TileStore

index_module = import_module("wsivit.data.index")  # `wsivit.data.index` is the verb


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Twelve stores of four patients, labelled, in a folder with a table."""
    lines = ["slide_id,store,patient,split"]
    for k in range(12):
        chosen = parameters(slide_id=f"s{k}", slide_fingerprint=f"sha256:{k:02}")
        path = write_store(tmp_path / "stores" / f"s{k}.zarr", chosen, unreadable=(3,))
        codes = np.where(np.arange(N) % 5 == 0, -1, (np.arange(N) + k) % 3 // 2)
        TileStore(path).write_labels("region", codes, ("stroma", "tumor"))
        lines.append(f"s{k},stores/s{k}.zarr,p{k % 4},{'val' if k % 4 == 3 else 'train'}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_an_index_holds_what_the_stores_say(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = wsivit.index([cohort / "cohort.csv"], cohort / "index.parquet", label="region")
    table = parquet.read_table(done.path).to_pandas()
    assert list(table.columns) == ["store", "tile", "label", "patient", "split"]
    assert (done.stores, done.tiles) == (12, len(table))
    assert set(table["patient"]) == {"p0", "p1", "p2", "p3"}
    assert done.splits == {"train": (table["patient"] != "p3").sum(), "tune": (table["patient"] == "p3").sum()}
    stores = [cohort / "stores" / f"s{k}.zarr" for k in range(12)]
    opened = samples_from_stores(stores, "region")
    opens = []
    monkeypatch.setattr(index_module, "TileStore", lambda *args: opens.append(args))
    indexed = load_samples([cohort / "index.parquet"])
    assert opens == []
    for name in ("source", "index", "code"):
        np.testing.assert_array_equal(getattr(indexed, name), getattr(opened, name))
    assert indexed.classes == opened.classes
    assert [indexed.classes[c] for c in indexed.code] == table["label"].tolist()
    assert indexed.side is not None
    np.testing.assert_array_equal(indexed.side, (table["split"] == "tune").astype(int))


def test_few_stores_are_open_at_a_time(cohort: Path) -> None:
    wsivit.index([cohort / "stores"], cohort / "index.parquet", label="region")
    shutil.move(cohort / "index.parquet", cohort / "stores" / "index.parquet")
    wsivit.index([cohort / "stores"], cohort / "stores" / "index.parquet", label="region")
    moved = cohort.with_name("moved")
    cohort.rename(moved)
    samples = load_samples([moved / "stores" / "index.parquet"])
    index_module.open_store.cache_clear()
    order = np.random.default_rng(0).permutation(len(samples))
    read = samples.read(order)
    assert index_module.open_store.cache_info().currsize <= index_module.OPEN_STORES
    whole = pictures()
    difference = np.abs(read.astype(int) - whole[samples.index[order]])
    assert np.median(difference) < 8
    stored = samples_from_stores([s.location for s in samples.sources], "region")  # type: ignore[attr-defined]
    assert list(samples.items()) == list(stored.items())


def test_an_index_and_its_stores_at_a_url(cohort: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(cohort / "stores"), "/far/stores", recursive=True)
    wsivit.index(["memory://far/stores/"], "memory://far/index.parquet", label="region")
    near = samples_from_stores(sorted((cohort / "stores").iterdir()), "region")
    far = load_samples(["memory://far/index.parquet"])
    chosen = np.arange(0, len(far), 7)
    names = [far.sources[k].id for k in far.source[chosen]]
    number = {source.id: k for k, source in enumerate(near.sources)}
    found = near.take(np.isin(near.source, [number[name] for name in names]))
    assert len(found)
    np.testing.assert_array_equal(
        far.read(chosen)[0],
        near.read(np.flatnonzero((near.source == number[names[0]]) & (near.index == far.index[chosen[0]])))[0],
    )
    memory.rm("/far", recursive=True)


def test_patients_are_held_out_whole_and_for_good(cohort: Path) -> None:
    text = (cohort / "cohort.csv").read_text().replace(",train", ",").replace(",val", ",")
    (cohort / "open.csv").write_text(text)
    made = [wsivit.index([cohort / "open.csv"], cohort / f"{k}.parquet", holdout=0.5, seed=3) for k in range(2)]
    tables = [parquet.read_table(one.path).to_pandas() for one in made]
    assert tables[0].equals(tables[1])
    assert (tables[0].groupby("patient")["split"].nunique() == 1).all()
    assert set(made[0].splits) == {"train", "test"}
    assert made[0].tiles == 12 * (N - 1)


def test_what_cannot_be_indexed_or_is_none(cohort: Path) -> None:
    with pytest.raises(UsageError, match="no labels 'nothing'"):
        wsivit.index([cohort / "stores"], cohort / "x.parquet", label="nothing")
    write_store(cohort / "other" / "o.zarr", parameters(mpp=(1.0, 1.0)))
    with pytest.raises(StoreMismatchError, match="one scale"):
        wsivit.index([cohort / "stores", cohort / "other"], cohort / "x.parquet")
    assert not list(cohort.glob("*x.parquet")), "half a table"
    (cohort / "a.svs").write_bytes(b"")
    with pytest.raises(UsageError, match="tile it first"):
        wsivit.index([cohort / "a.svs"], cohort / "x.parquet")
    (cohort / "bad.csv").write_text("slide_id,store,split\ns1,stores/s1.zarr,perhaps\n")
    with pytest.raises(UsageError, match="'perhaps' is none of"):
        wsivit.index([cohort / "bad.csv"], cohort / "x.parquet")
    with pytest.raises(UsageError, match="holdout"):
        wsivit.index([cohort / "stores"], cohort / "x.parquet", holdout=1.5)
    assert not (cohort / "x.parquet").exists()
    with pytest.raises(InputNotFoundError):
        labelled_index(str(cohort / "x.parquet"))
    (cohort / "junk.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UsageError, match="is no index"):
        labelled_index(str(cohort / "junk.parquet"))
    done = wsivit.index([cohort / "stores"], cohort / "bare.parquet")
    with pytest.raises(UsageError, match="it has none"):
        labelled_index(str(done.path))


def test_a_store_that_was_replaced_is_noticed(cohort: Path) -> None:
    wsivit.index([cohort / "stores"], cohort / "index.parquet", label="region")
    shutil.rmtree(cohort / "stores" / "s0.zarr")
    write_store(cohort / "stores" / "s0.zarr", parameters(slide_fingerprint="sha256:ff"))
    index_module.open_store.cache_clear()
    with pytest.raises(StoreMismatchError, match="index again"):
        load_samples([cohort / "index.parquet"]).read([0])


def test_the_command(cohort: Path) -> None:
    words = [sys.executable, "-m", "wsivit", "index", "stores", "--label", "region", "-o", "i.parquet", "-q"]
    done = subprocess.run(words, cwd=cohort, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "324 tiles of 12 stores"
    assert done.stdout.splitlines()[-1] == "wrote    i.parquet"


# --- the order


orders = st.builds(
    OrderOptions,
    batch_size=st.integers(1, 9),
    mix=st.integers(1, 5),
    lanes=st.integers(1, 6),
    balanced=st.just(False),
)


@given(lengths=st.lists(st.integers(1, 30), max_size=20), options=orders, seed=st.integers(0, 9))
def test_an_epoch_has_each_tile_once(lengths: list[int], options: OrderOptions, seed: int) -> None:
    shard = np.repeat(np.arange(len(lengths)), lengths)
    code = shard % 2
    order = epoch_order(shard, code, seed, 1, options)
    assert sorted(order.tolist()) == list(range(len(shard)))
    np.testing.assert_array_equal(order, epoch_order(shard, code, seed, 1, options))


@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=5), seed=st.integers(0, 9))
def test_a_balanced_epoch_draws_classes_equally(counts: list[int], seed: int) -> None:
    code = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    shard = np.arange(len(code)) // 8
    order = epoch_order(shard, code, seed, 0, OrderOptions(4, balanced=True))
    assert len(order) == len(code)
    drawn = np.bincount(code[order], minlength=len(counts))
    assert drawn.max() - drawn.min() <= 1
    for which in range(len(counts)):
        times = np.bincount(order, minlength=len(code))[code == which]
        assert times.max() - times.min() <= 1


def test_an_epoch_reads_few_shards_at_a_time_and_is_shuffled() -> None:
    shard, lanes, mix = np.repeat(np.arange(400), 128), 8, 4
    options = OrderOptions(batch_size=32, mix=mix, lanes=lanes)
    order = epoch_order(shard, shard % 2, 0, 0, options)
    other = epoch_order(shard, shard % 2, 0, 1, options)
    assert (order == other).mean() < 0.01
    batches = order[: len(order) // (32 * lanes) * 32 * lanes].reshape(-1, lanes, 32)
    for lane in range(lanes):
        visited = shard[batches[:, lane]]
        first, last = {}, {}
        for k, row in enumerate(visited):
            for one in row.tolist():
                first.setdefault(one, k)
                last[one] = k
        # A shard is done with soon: what is open at a time is a few shards more than are mixed.
        for k in range(len(visited)):
            assert sum(first[one] <= k <= last[one] for one in first) <= mix + 3
        assert np.mean([len(set(row.tolist())) for row in visited[5:-5]]) > mix - 1


def test_orders_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="mix must be at least 1"):
        OrderOptions(mix=0)


def test_shards_are_those_of_the_stores(cohort: Path) -> None:
    wsivit.index([cohort / "stores"], cohort / "index.parquet", label="region")
    samples = load_samples([cohort / "index.parquet"])
    shard = shards_of(samples)
    assert (np.diff(shard) >= 0).all()
    expected = {(int(s), int(i) // 8) for s, i in zip(samples.source, samples.index, strict=True)}
    assert len(set(shard.tolist())) == len(expected)
