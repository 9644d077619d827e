"""Tile stores: what is written is what every reader sees, and nothing is made up for what is not there."""

from __future__ import annotations

import asyncio
import errno
import json
import multiprocessing
import os
import pickle
import runpy
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.store_helpers import (
    SIZE,
    N,
    chunks,
    parameters,
    pictures,
    rgb_jpeg,
    table,
    tree_digest,
    write_store,
    ycbcr_jpeg,
)
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.dtype import UInt8
from zarr.storage import MemoryStore

from wsivit.errors import (
    OutputError,
    OutputExistsError,
    StoreError,
    StoreLockedError,
    StoreMismatchError,
    UnreadableTilesError,
    UsageError,
)
from wsivit.io.processes import parallel_for
from wsivit.store import Predictions, Status, StoreParameters, StoreWriter, TileStore
from wsivit.store.shard import append_crc, decode, decode_index, encode_jpeg, encode_shard, index_size, strip_crc
from wsivit.store.zarr_codec import Jpeg, WsivitJpeg, register

KINDS = {
    "jpeg": parameters(),
    "zstd": parameters(codec="zstd"),
    "copied": parameters(encoding="copied", chunk=(SIZE // 2, SIZE // 2)),
    "uneven": parameters(encoding="copied", chunk=(SIZE // 2, SIZE // 4)),
    "one shard": parameters(shard_tiles=1024),
}


@pytest.fixture(autouse=True, scope="module")
def _codec() -> None:
    register()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return TileStore(write_store(tmp_path_factory.mktemp("store") / "a.zarr"))


# The same pixels from every reader


@pytest.mark.parametrize("kind", KINDS)
def test_zarr_reads_the_same_pixels(kind: str, tmp_path: Path) -> None:
    ours = TileStore(write_store(tmp_path / "a.zarr", KINDS[kind]))
    theirs = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert theirs["tiles"].shape == (N, SIZE, SIZE, 3)
    np.testing.assert_array_equal(ours.read(range(N)), theirs["tiles"][...])
    if kind == "zstd":
        np.testing.assert_array_equal(ours.read(range(N)), pictures())
    for name in ("col", "row", "x0", "y0", "tissue_fraction", "status"):
        np.testing.assert_array_equal(getattr(ours, name), theirs[name][...])


@pytest.mark.parametrize("encode", [encode_jpeg, rgb_jpeg, ycbcr_jpeg], ids=["jfif", "adobe-rgb", "adobe-ycbcr"])
def test_every_colour_case_decodes_alike(encode: object, tmp_path: Path) -> None:
    chosen = parameters(encoding="copied")
    pixels = pictures()
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        for tiles in writer.pending():
            writer.write_shard(tiles, [encode(pixels[i]) for i in tiles])  # type: ignore[operator]
        writer.finish()
    ours = TileStore(tmp_path / "a.zarr").read(range(N))
    # imagecodecs-zarr's decoding rule, here without that package, and plain zarr with the codec of this process.
    rule = [imagecodecs.jpeg8_decode(encode(picture)).reshape(1, SIZE, SIZE, 3)[0] for picture in pixels]  # type: ignore[operator]
    np.testing.assert_array_equal(ours, np.stack(rule))
    np.testing.assert_array_equal(ours, zarr.open_array(tmp_path / "a.zarr/tiles", mode="r")[...])
    assert np.abs(ours.astype(int) - pixels).mean() < 10


def test_tree_reads_like_a_table_of_contents(tmp_path: Path) -> None:
    store = TileStore(write_store(tmp_path / "a.zarr"))
    store.write_labels("region", np.zeros(N, int), ["tumour"])
    store.write_predictions("vit", Predictions(np.zeros((N, 2), np.float32), ("a", "b")))
    tree = str(zarr.open_group(tmp_path / "a.zarr", mode="r").tree())
    for line in (
        f"tiles ({N}, 32, 32, 3) uint8",
        f"x0 ({N},) int64",
        f"region ({N},) int16",
        "tissue_mask (6, 9) bool",
    ):
        assert line in tree
    assert f"probabilities ({N}, 2) float32" in tree


def test_stores_hold_the_documented_pictures(store: TileStore) -> None:
    mask, downsample = store.tissue_mask
    np.testing.assert_array_equal(mask, np.eye(6, 9, dtype=bool))
    assert downsample == (24.5, 26.0)
    thumbnail, downsample = store.thumbnail
    np.testing.assert_array_equal(thumbnail, pictures(1, 64)[0])
    assert downsample == (3.5, 2.5)


# The reader


def test_read_takes_any_order_and_fills_what_it_is_given(store: TileStore) -> None:
    everything = np.stack(list(store))
    order = np.random.default_rng(1).permutation(N)
    out = np.zeros((N, SIZE, SIZE, 3), np.uint8)
    assert store.read(order, out) is out
    np.testing.assert_array_equal(out, everything[order])
    np.testing.assert_array_equal(store.read([3, -1, 3], threads=1), everything[[3, N - 1, 3]])
    np.testing.assert_array_equal(store[-2], everything[N - 2])
    np.testing.assert_array_equal(decode(store.encoded(4)[0]), everything[4])
    assert store.read([]).shape == (0, SIZE, SIZE, 3)


@pytest.mark.parametrize("index", [N, -N - 1])
def test_indexes_outside_are_refused(store: TileStore, index: int) -> None:
    with pytest.raises(IndexError, match=str(N)):
        store[index]
    with pytest.raises(IndexError):
        store.encoded(index)


@pytest.mark.parametrize("indexes", [[0.5], [[1]], [True]])
def test_indexes_that_are_none_are_refused(store: TileStore, indexes: object) -> None:
    with pytest.raises(IndexError):
        store.read(indexes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "out",
    [np.zeros((2, SIZE, SIZE, 3)), np.zeros((1, SIZE, SIZE, 3), np.uint8), np.zeros((3, 64, 2, SIZE), np.uint8).T],
)
def test_an_unfit_out_is_refused(store: TileStore, out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="C-contiguous uint8"):
        store.read([0, 1], out)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_read_the_same(store: TileStore, method: str) -> None:
    expected = store.read(range(N)).tobytes()
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        answers = pool.map(_read_everything, [store] * 4)
    assert answers == [expected] * 4


def _read_everything(store: TileStore) -> bytes:
    return store.read(range(N)).tobytes()


def test_work_is_shared_out_once_each_and_ends_with_the_call() -> None:
    done: list[int] = []
    parallel_for(lambda k: parallel_for(lambda j: done.append(4 * k + j), 4, 3), 50, 3)  # in each other, too
    assert sorted(done) == list(range(200))

    def fails(k: int) -> None:
        time.sleep(0.01)
        if k == 3:
            raise StoreError("the fourth")
        done.append(k)

    done.clear()
    with pytest.raises(StoreError, match="the fourth"):
        parallel_for(fails, 40, 3)
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count


def test_threads_and_copies_read_the_same(store: TileStore) -> None:
    expected, copy, answers = _read_everything(store), pickle.loads(pickle.dumps(store)), []
    jobs = [threading.Thread(target=lambda s=s: answers.append(_read_everything(s))) for s in (store, copy) * 4]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert answers == [expected] * 8
    assert pickle.dumps(store) == pickle.dumps(copy)
    assert len(pickle.dumps(store)) < 500


def test_many_open_stores_hold_no_files(store: TileStore) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    stores = [TileStore(store.path) for _ in range(50)]
    for opened in stores:
        opened.read([0, N - 1])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Tiles that could not be read


def test_unreadable_tiles_are_never_pixels(tmp_path: Path) -> None:
    chosen = KINDS["copied"]
    store = TileStore(write_store(tmp_path / "a.zarr", chosen, unreadable=(0, 11)))
    assert np.flatnonzero(store.status == Status.UNREADABLE).tolist() == [0, 11]
    assert store.readable.tolist() == [i for i in range(N) if i not in (0, 11)]
    with pytest.raises(UnreadableTilesError, match="the first is 11"):
        store.read([3, 11])
    with pytest.raises(UnreadableTilesError):
        store.encoded(0)
    np.testing.assert_array_equal(
        store.read(store.readable), zarr.open_array(store.path / "tiles", mode="r")[...][store.readable]
    )


def test_one_bad_part_makes_the_tile_unreadable(tmp_path: Path) -> None:
    chosen = replace(KINDS["copied"], shard_tiles=N)
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        parts = chunks(chosen, range(N))
        parts[4 * 9 + 2] = None
        parts[4 * 20 : 4 * 21] = [None] * 4
        writer.write_shard(range(N), parts)
        writer.finish()
    store = TileStore(tmp_path / "a.zarr")
    assert np.flatnonzero(store.status == Status.UNREADABLE).tolist() == [9, 20]
    assert (zarr.open_array(store.path / "tiles", mode="r")[9] == 0).all()


def test_padded_tiles_keep_their_status(store: TileStore) -> None:
    np.testing.assert_array_equal(store.status == Status.PADDED, store.col == 6)


# Writing


def test_a_broken_off_store_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = tree_digest(write_store(tmp_path / "whole.zarr", unreadable=(3, 20)))
    chosen = parameters()

    def breaking(tiles: range) -> object:
        yield from chunks(chosen, tiles, (3, 20))[:3]
        raise KeyboardInterrupt

    for broken in range(5):
        path = tmp_path / f"{broken}.zarr"
        with pytest.raises(KeyboardInterrupt), StoreWriter.open(path, chosen, table(chosen)) as writer:
            for tiles in reversed(writer.pending()[broken:]):  # also out of order
                writer.write_shard(tiles, chunks(chosen, tiles, (3, 20)))
            if broken:
                writer.write_shard(writer.pending()[0], breaking(writer.pending()[0]))
            raise KeyboardInterrupt
        with pytest.raises(StoreError, match="not complete"):
            TileStore(path)
        with StoreWriter.open(path, chosen, table(chosen)) as writer:
            assert len(writer.pending()) == broken
        assert len(TileStore(path, allow_incomplete=True)) == N
        assert tree_digest(write_store(path, unreadable=(3, 20))) == whole


def test_a_complete_store_is_done(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    before = tree_digest(path)
    with StoreWriter.open(path, parameters(slide_path="/moved/a-slide.svs"), table(parameters())) as writer:
        assert writer.done
        assert writer.pending() == []
        writer.finish()
    assert tree_digest(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_a_lost_shard_is_made_anew(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr", unreadable=(9,))
    TileStore(path).write_predictions("run", Predictions(np.zeros((N, 1), np.float32), ("a",)))
    before = tree_digest(path)
    (path / "tiles/c.1.0.0.0").unlink()
    with StoreWriter.open(path, parameters(), table(parameters())) as writer:
        assert (writer.done, writer.pending()) == (False, [range(8, 16)])
    assert tree_digest(write_store(path, unreadable=(9,))) == before


def test_other_content_is_refused_field_by_field(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    before = tree_digest(path)
    for chosen in (parameters(min_tissue=0.25, quality=80), parameters(slide_fingerprint="sha256:11")):
        with pytest.raises(StoreMismatchError) as caught:
            StoreWriter.open(path, chosen, table(chosen))
        for difference in parameters().differences(chosen):
            assert difference in str(caught.value)
    assert parameters().differences(parameters(quality=80)) == ["quality: 90 in the store, 80 asked for"]
    fewer = table(parameters())
    fewer.tissue_fraction[3] = 0.1
    with pytest.raises(StoreMismatchError, match="tiles are not the"):
        StoreWriter.open(path, parameters(), fewer)
    assert tree_digest(path) == before


def test_overwriting_keeps_the_old_store_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    before, chosen = tree_digest(path), parameters(quality=50)
    expected = tree_digest(write_store(tmp_path / "expected.zarr", chosen))
    for round_ in range(3):
        with StoreWriter.open(path, chosen, table(chosen), overwrite=True) as writer:
            assert len(writer.pending()) == 5 - 2 * round_, "goes on with what was built beside"
            for tiles in writer.pending()[: 2 if round_ < 2 else None]:
                writer.write_shard(tiles, chunks(chosen, tiles))
            assert tree_digest(path) == before
            if round_ == 2:
                writer.write_mask(np.eye(6, 9, dtype=bool), (24.5, 26.0))
                writer.write_thumbnail(pictures(1, 64)[0], (3.5, 2.5))
                writer.finish()
    assert tree_digest(path) == expected
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zarr", "expected.zarr"]


def test_where_folders_cannot_be_exchanged_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsivit.io.atomic._exchange_names", lambda one, other: False)
    path, chosen = write_store(tmp_path / "a.zarr"), parameters(shard_tiles=N)
    with StoreWriter.open(path, chosen, table(chosen), overwrite=True) as writer:
        writer.write_shard(range(N), chosen_chunks := chunks(chosen, range(N)))
        writer.finish()
    assert TileStore(path).encoded(3) == [chosen_chunks[3]]


QUALITY = {"": 50, "old": 60, "new": 70}


@pytest.mark.parametrize(("left", "kept"), [(("old", "new"), "new"), (("old",), "old"), (("", "old"), "")])
def test_a_swap_killed_between_its_renames_is_finished(tmp_path: Path, left: tuple[str, ...], kept: str) -> None:
    places = {"": tmp_path / "a.zarr", "old": tmp_path / ".a.zarr.old", "new": tmp_path / ".a.zarr.new"}
    digests = {name: tree_digest(write_store(places[name], parameters(quality=QUALITY[name]))) for name in left}
    chosen = parameters(quality=QUALITY[kept])
    with StoreWriter.open(places[""], chosen, table(chosen)) as writer:
        assert writer.done
    assert tree_digest(places[""]) == digests[kept]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_what_was_built_beside_goes_when_it_is_not_wanted_any_more(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    StoreWriter.open(path, parameters(quality=50), table(parameters()), overwrite=True).close()
    assert len(list(tmp_path.iterdir())) == 2
    StoreWriter.open(path, parameters(), table(parameters())).close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_things_that_are_no_store_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.txt").write_text("years of work")
    zarr.create_group(tmp_path / "other.zarr")
    for name in ("folder", "other.zarr"):
        before = tree_digest(tmp_path / name)
        with pytest.raises(OutputExistsError, match="not a tile store"):
            StoreWriter.open(tmp_path / name, parameters(), table(parameters()), overwrite=True)
        with pytest.raises(StoreError, match="not a tile store"):
            TileStore(tmp_path / name)
        assert tree_digest(tmp_path / name) == before
    with pytest.raises(StoreError, match=r"nothing\.zarr: there is no such tile store"):
        TileStore(tmp_path / "nothing.zarr")


def test_the_second_writer_is_told_who_holds_the_store(tmp_path: Path) -> None:
    chosen = parameters()
    with (
        StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)),
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        answer = pool.apply(_try_to_write, (tmp_path / "a.zarr",))
    assert f"being written by process {os.getpid()} on" in answer
    write_store(tmp_path / "a.zarr")


def _try_to_write(path: Path) -> str:
    try:
        StoreWriter.open(path, parameters(), table(parameters()))
    except StoreLockedError as error:
        return str(error)
    return "nobody"


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_wrong_number_of_chunks_is_refused(tmp_path: Path, surplus: int) -> None:
    chosen = parameters()
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        with pytest.raises(StoreError, match="too few" if surplus < 0 else "too many"):
            writer.write_shard(range(8), chunks(chosen, range(8 + surplus)))
        with pytest.raises(StoreError, match="not a shard"):
            writer.write_shard(range(1, 9), chunks(chosen, range(1, 9)))
        with pytest.raises(StoreError, match="5 shards are not written"):
            writer.finish()
        assert len(writer.pending()) == 5


def test_a_store_without_tiles_is_a_store(tmp_path: Path) -> None:
    chosen = parameters()
    empty = type(table(chosen))(*[[]] * 6)  # type: ignore[arg-type]
    for name in ("jpeg", "none"):
        with StoreWriter.open(tmp_path / name, replace(chosen, codec=name), empty) as writer:
            writer.finish()
        store = TileStore(tmp_path / name)
        assert len(store) == 0
        assert list(store) == []
        assert zarr.open_group(tmp_path / name, mode="r")["x0"].shape == (0,)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_full_or_failing_disk_is_said_and_costs_one_shard_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    whole = tree_digest(write_store(tmp_path / "whole.zarr"))
    for n in range(0, 200, 7):
        path, left = tmp_path / f"{n}" / "a.zarr", [n]

        def failing(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "fsync", failing)
        try:
            write_store(path)
            assert tree_digest(path) == whole
            return
        except OutputError as caught:
            assert os.strerror(error) in str(caught)
            assert str(path) in str(caught)
        assert not list(path.rglob(".*")), "left half-written"
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        assert tree_digest(write_store(path)) == whole
    raise AssertionError("the writing does not end")


# Parameters


def test_parameters_come_back_from_json() -> None:
    chosen = parameters(open_options={"mpp": 0.5})
    back = StoreParameters.from_dict(json.loads(json.dumps(chosen.to_dict())))
    assert back == chosen
    assert back.differences(chosen) == []


def test_parameters_of_other_versions_are_named() -> None:
    values = parameters().to_dict()
    values["colour"] = values.pop("quality")
    with pytest.raises(StoreError, match=r"missing \['quality'\], unknown \['colour'\]"):
        StoreParameters.from_dict(values)
    with pytest.raises(StoreError, match="make no sense"):
        StoreParameters.from_dict({**parameters().to_dict(), "grid": {"tile_size": 8}})


@pytest.mark.parametrize(
    "changes", [{"codec": "png"}, {"codec": "zstd", "encoding": "copied"}, {"chunk": (5, 32)}, {"shard_tiles": 0}]
)
def test_parameters_that_make_no_store_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(StoreError):
        parameters(**changes)


def test_stores_of_another_format_are_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["wsivit"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="store format 99, this wsivit reads 2"):
        TileStore(path)


# Labels and predictions


def test_labels_and_predictions_come_back(tmp_path: Path) -> None:
    store = TileStore(write_store(tmp_path / "a.zarr"))
    codes = np.arange(N) % 3 - 1
    store.write_labels("region", codes, ["a", "b"])
    store.write_labels("region", codes, ["tumour", "stroma"])
    assert store.labels == ["region"]
    assert store.label("region").classes == ("tumour", "stroma")
    np.testing.assert_array_equal(store.label("region").codes, codes)
    probabilities = np.random.default_rng(0).random((N, 2), np.float32)
    probabilities[4] = np.nan
    store.write_predictions("run-1", Predictions(probabilities, ("a", "b"), {"temperature": 1.5}, probabilities * 2))
    back = store.predictions("run-1")
    np.testing.assert_array_equal(back.probabilities, probabilities)
    np.testing.assert_array_equal(back.logits, probabilities * 2)
    assert (back.classes, back.attrs, store.runs) == (("a", "b"), {"temperature": 1.5}, ["run-1"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zarr"]


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    store = TileStore(write_store(tmp_path / "a.zarr"))
    with pytest.raises(UsageError, match="no labels 'x'; it has none"):
        store.label("x")
    store.write_predictions("vit", Predictions(np.zeros((N, 1), np.float32), ("a",)))
    with pytest.raises(UsageError, match="no predictions 'x'; it has vit"):
        store.predictions("x")
    for name in ("../x", "", ".tmp-x", "a/b"):
        with pytest.raises(UsageError, match="use at most 100 letters"):
            store.write_labels(name, np.zeros(N), ["a"])


@pytest.mark.parametrize("codes", [np.zeros(N - 1), np.full(N, 1), np.full(N, -2)])
def test_labels_must_fit(store: TileStore, codes: np.ndarray) -> None:
    with pytest.raises(StoreError, match=f"must be {N} codes"):
        store.write_labels("bad", codes, ["a"])
    assert store.labels == []


def test_labels_of_other_programs_are_read(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    group = zarr.open_group(path, mode="a").create_group("labels")
    array = group.create_array("grade", shape=(N,), dtype="int8", attributes={"wsivit": {"classes": ["g1", "g2"]}})
    array[:] = np.arange(N) % 2
    assert TileStore(path).label("grade").classes == ("g1", "g2")
    np.testing.assert_array_equal(TileStore(path).label("grade").codes, np.arange(N) % 2)


# Damage


def test_missing_and_damaged_files_are_errors_never_zeros(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    shard = path / "tiles/c.1.0.0.0"
    whole = shard.read_bytes()
    for damaged in (None, b"", whole[:-7], whole[: len(whole) // 2], whole[:5] + b"!" + whole[6:]):
        shard.unlink() if damaged is None else shard.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0 is (missing|damaged)|tile 8 of .* is damaged"):
            TileStore(path).read([1, 8])
    shard.write_bytes(whole)
    for name in ("x0", "tissue_mask"):
        file = next((path / name).glob("c.*"))
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + b"?")
        with pytest.raises(StoreError, match="is damaged"):
            getattr(TileStore(path), name)
        file.unlink()
        with pytest.raises(StoreError, match="is missing"):
            getattr(TileStore(path), name)


def test_a_store_whose_document_was_changed_is_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"min_tissue": 0.5', '"min_tissue": 0.1'))
    with pytest.raises(StoreError, match="changed after it was written"):
        TileStore(path)
    (path / "zarr.json").write_text(text[:-5])
    with pytest.raises(StoreError, match="damaged"):
        TileStore(path)
    (path / "zarr.json").write_text(text)
    zarr.open_group(path, mode="a").attrs["mine"] = {"note": "attributes of others are theirs"}
    assert len(TileStore(path)) == N


# Shards and the codec, on their own

_CHUNKS = st.lists(st.none() | st.binary(max_size=300), max_size=12)


@settings(deadline=None, max_examples=60)
@given(_CHUNKS, st.integers(0, 5))
def test_shards_come_back(chunks: list[bytes | None], spare: int) -> None:
    slots = len(chunks) + spare
    data = b"".join(encode_shard([chunks[:3], chunks[3:]], slots))
    index = decode_index(data[-index_size(slots) :], slots, len(data))
    back = [None if start < 0 else strip_crc(data[start : start + size]) for start, size in index.tolist()]
    assert back == chunks + [None] * spare


@settings(deadline=None, max_examples=25)
@given(st.lists(st.none() | st.binary(min_size=6, max_size=6), min_size=1, max_size=9))
def test_zarr_reads_our_shards(chunks: list[bytes | None]) -> None:
    sharding = ShardingCodec(chunk_shape=(6,), codecs=[BytesCodec(), Crc32cCodec()])
    memory = MemoryStore()
    array = zarr.create_array(
        memory,
        shape=(6 * len(chunks),),
        chunks=(6 * len(chunks),),
        dtype="uint8",
        fill_value=7,
        serializer=sharding,
        compressors=None,
    )
    data = default_buffer_prototype().buffer.from_bytes(b"".join(encode_shard([chunks], len(chunks))))
    asyncio.run(memory.set("c/0", data))
    assert array[...].tobytes() == b"".join(b"\x07" * 6 if chunk is None else chunk for chunk in chunks)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_flipped_bit_goes_unseen(data: st.DataObject) -> None:
    whole = bytearray(b"".join(encode_shard([[b"one chunk", None, b"another one"]], 3)))
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[at // 8] ^= 1 << at % 8
    with pytest.raises(StoreError):
        index = decode_index(bytes(whole), 3, len(whole))
        for start, size in index[index[:, 0] >= 0].tolist():
            strip_crc(bytes(whole[start : start + size]))


def test_too_many_chunks_for_a_shard() -> None:
    with pytest.raises(StoreError, match="more than 1"):
        list(encode_shard([[b"a", b"b"]], 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GIF89a", "neither JPEG nor zstd"),
        (encode_jpeg(pictures(1)[0])[:200], "cannot decode a JPEG"),
        (encode_jpeg(pictures(1, 16)[0]), "16 x 16 where 32 x 32"),
        (b"\x28\xb5\x2f\xfd!!", "cannot decompress"),
    ],
)
def test_chunks_that_are_no_tiles(data: bytes, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        decode(data, (SIZE, SIZE))


def test_the_checksum_is_crc32c() -> None:
    assert append_crc(b"123456789")[-4:] == (0xE3069283).to_bytes(4, "little")  # the check value of its definition
    with pytest.raises(StoreError, match="checksum"):
        strip_crc(b"")


def test_the_codec_writes_and_reads_through_zarr(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=(2, SIZE, SIZE, 3),
        chunks=(1, SIZE, SIZE, 3),
        dtype="uint8",
        serializer=Jpeg(level=95, subsampling="444"),
        compressors=None,
    )
    array[...] = pictures(2)
    back = zarr.open_array(tmp_path / "a", mode="r")[...]
    assert np.abs(back.astype(int) - pictures(2)).mean() < 6
    assert WsivitJpeg().to_dict() == {"name": "imagecodecs_jpeg"}
    assert WsivitJpeg.from_dict(WsivitJpeg(level=9).to_dict()) == WsivitJpeg(level=9)
    with pytest.raises(ValueError, match="does not know tables"):
        WsivitJpeg.from_dict({"name": "imagecodecs_jpeg", "configuration": {"tables": "AA=="}})


def test_the_codec_decodes_without_an_event_loop() -> None:
    spec = ArraySpec((1, SIZE, SIZE, 3), UInt8(), 0, ArrayConfig("C", False), default_buffer_prototype())
    data = default_buffer_prototype().buffer.from_bytes(ycbcr_jpeg(pictures(1)[0]))
    assert WsivitJpeg()._decode_sync(data, spec).as_numpy_array().shape == (1, SIZE, SIZE, 3)


def test_the_example_takes_only_tiles_with_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, missing, unreadable = replace(parameters(), shard_tiles=N), N - 1, N - 2  # these have most tissue
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        parts: list[object] = list(chunks(chosen, range(N), (unreadable,)))
        parts[missing] = Status.MISSING
        writer.write_shard(range(N), parts)  # type: ignore[arg-type]
        writer.finish()
    example = Path(__file__).parents[2] / "examples/store_in_plain_zarr.py"
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path / "a.zarr")])
    runpy.run_path(str(example), run_name="__main__")
    assert f"tile {N - 3} at" in capsys.readouterr().out
