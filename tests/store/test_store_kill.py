"""Killed at any moment, or written by many at once, a store comes out the same, byte for byte."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.store_helpers import N, chunks, kill_at_sync, parameters, pictures, table, tree_digest, write_store

from wsivit.errors import StoreError, StoreLockedError
from wsivit.store import LabelColumn, Predictions, StoreParameters, StoreWriter, TileStore

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def killed(work: Callable[[], object], *, sync: int | None = None, seconds: float | None = None) -> bool:
    """Do some work in a child that is killed at its n-th fsync or after a time; return whether it was."""
    child = os.fork()
    if child == 0:
        if sync is not None:
            kill_at_sync(sync)
        work()
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def overwrite(path: Path, chosen: StoreParameters) -> None:
    with StoreWriter.open(path, chosen, table(chosen), overwrite=True) as writer:
        for tiles in writer.pending():
            writer.write_shard(tiles, chunks(chosen, tiles))
        writer.write_mask(np.eye(6, 9, dtype=bool), (24.5, 26.0))
        writer.write_thumbnail(pictures(1, 64)[0], (3.5, 2.5))
        writer.finish()


def looks_whole(path: Path) -> bool:
    try:
        return TileStore(path).complete
    except StoreError:
        return False


def test_killed_at_every_sync_of_writing(tmp_path: Path) -> None:
    assert kill_at_syncs(tmp_path, step=9) > 50


def kill_at_syncs(folder: Path, step: int) -> int:
    """Kill the writing of a store at every `step`-th fsync; return how many there were."""
    chosen = parameters(shard_tiles=16)
    whole = tree_digest(write_store(folder / "whole.zarr", chosen, unreadable=(3,)))
    for sync in range(0, 1000, step):
        path = folder / f"at-{sync}" / "a.zarr"
        if not killed(lambda path=path: write_store(path, chosen, unreadable=(3,)), sync=sync):
            assert tree_digest(path) == whole
            return sync
        # The document that says "complete" may be in place already, its name only not yet synced.
        assert not looks_whole(path) or tree_digest(path) == whole
        assert tree_digest(write_store(path, chosen, unreadable=(3,))) == whole, f"at sync {sync}"
        assert [file.name for file in path.parent.iterdir()] == ["a.zarr"]
    raise AssertionError("the writing does not end")


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, kills=8, seed=0)


def kill_at_random_moments(folder: Path, kills: int, seed: int) -> None:
    """Kill the writing of stores at so many random moments, each store going on until it is whole."""
    began = time.monotonic()
    assert not killed(lambda: write_store(folder / "whole.zarr"))
    duration, whole = time.monotonic() - began, tree_digest(folder / "whole.zarr")
    rng, done = np.random.default_rng(seed), 0
    for k in range(kills * 10):
        path = folder / str(k) / "a.zarr"
        while killed(lambda path=path: write_store(path), seconds=float(rng.uniform(0, 0.6 * duration))):
            done += 1
            assert not looks_whole(path) or tree_digest(path) == whole
        assert tree_digest(path) == whole
        assert [file.name for file in path.parent.iterdir()] == ["a.zarr"]
        if done >= kills:
            return
    raise AssertionError(f"only {done} of {kills} kills hit")


def test_killed_while_overwriting(tmp_path: Path) -> None:
    kill_while_overwriting(tmp_path, step=11)


def kill_while_overwriting(folder: Path, step: int) -> None:
    """Kill the overwriting of a store at every `step`-th fsync: at each moment the old or the new one is there."""
    old, new = parameters(shard_tiles=16), parameters(shard_tiles=16, quality=50)
    before = tree_digest(write_store(folder / "old.zarr", old))
    after = tree_digest(write_store(folder / "new.zarr", new))
    for sync in range(0, 1000, step):
        path = write_store(folder / f"at-{sync}" / "a.zarr", old)
        hit = killed(lambda path=path: overwrite(path, new), sync=sync)
        assert tree_digest(path) in ((before, after) if hit else (after,))
        overwrite(path, new)
        assert tree_digest(path) == after
        assert [file.name for file in path.parent.iterdir()] == ["a.zarr"]
        if not hit:
            return
    raise AssertionError("the overwriting does not end")


def test_killed_while_labels_and_predictions_are_replaced(tmp_path: Path) -> None:
    store = TileStore(write_store(tmp_path / "a.zarr"))
    old, new = LabelColumn(np.zeros(N, np.int16), ("old",)), LabelColumn(np.ones(N, np.int16), ("new", "er"))
    values = {name: Predictions(np.full((N, 1), k, np.float32), (name,)) for k, name in enumerate(("old", "new"))}

    def write(column: LabelColumn, name: str) -> None:
        store.write_labels("region", column.codes, column.classes)
        store.write_predictions("run", values[name])

    write(new, "new")
    after = tree_digest(store.path)
    for sync in range(0, 100, 3):
        write(old, "old")
        hit = killed(lambda: write(new, "new"), sync=sync)
        label, predicted = store.label("region"), store.predictions("run")
        assert (label.classes, label.codes[0]) in ((("old",), 0), (("new", "er"), 1))
        assert (predicted.classes, predicted.probabilities[0, 0]) in ((("old",), 0), (("new",), 1))
        write(new, "new")
        assert tree_digest(store.path) == after
        assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
        if not hit:
            return
    raise AssertionError("the writing does not end")


# Many at once


def test_many_processes_on_one_store(tmp_path: Path) -> None:
    many_at_once(tmp_path, processes=4, rounds=2)


def many_at_once(folder: Path, processes: int, rounds: int) -> None:
    """Let processes write the same store, and labels and predictions of their own and of one name, all at once."""
    whole = tree_digest(write_store(folder / "whole.zarr"))
    for k in range(rounds):
        path = folder / str(k) / "a.zarr"
        children = []
        for process in range(processes):
            child = os.fork()
            if child == 0:
                os._exit(_write_until_complete(path, process))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * processes
        store = TileStore(path)
        assert store.labels == [*(f"own-{process}" for process in range(processes)), "shared"]
        for process in range(processes):
            assert (store.label(f"own-{process}").codes == process).all()
        assert len(set(store.label("shared").codes.tolist())) == 1, "a label column is one writer's, not two writers'"
        assert len(set(store.predictions("run").probabilities[:, 0].tolist())) == 1
        ours = {name: digest for name, digest in tree_digest(path).items() if not name.startswith(("labels", "pred"))}
        assert ours == whole
        assert [file.name for file in path.parent.iterdir()] == ["a.zarr"]


def _write_until_complete(path: Path, process: int) -> int:
    while not looks_whole(path):
        try:
            write_store(path)
        except StoreLockedError as error:
            assert "is being written by" in str(error)
            time.sleep(0.01)
    store = TileStore(path)
    classes = [str(k) for k in range(process + 1)]
    for name in (f"own-{process}", "shared"):
        store.write_labels(name, np.full(N, process), classes)
    store.write_predictions("run", Predictions(np.full((N, 1), process, np.float32), ("a",)))
    return 0
