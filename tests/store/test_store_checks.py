"""Each check of a store, one at a time: leaving it out of the code fails a test here."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import SIZE, N, chunks, parameters, pictures, table, write_store

from wsivit.errors import StoreError, StoreLockedError, UnreadableTilesError
from wsivit.slide import open_slide
from wsivit.slide.grid import TileGrid
from wsivit.store import Predictions, Status, StoreWriter, TileStore, TileTable, read_journal, zarr_metadata
from wsivit.store.schema import TILES, tiles_spec
from wsivit.store.shard import ABSENT, append_crc, decode, decode_index, encode_jpeg, encode_shard, encode_zstd
from wsivit.store.verify import _shard, verify

SHARD = "tiles/c.0.0.0.0"


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    return TileStore(write_store(tmp_path / "a.zarr", unreadable=(4,)))


def with_chunks(path: Path, *replaced: tuple[int, bytes | None]) -> TileStore:
    """Write a store of one-chunk tiles, and the first shard again with some chunks replaced, checksums included."""
    chosen = TileStore(path).parameters
    parts = chunks(chosen, range(chosen.shard_tiles))
    for tile, chunk in replaced:
        parts[tile] = chunk
    (path / SHARD).write_bytes(b"".join(encode_shard([parts], chosen.shard_tiles)))
    return TileStore(path)


# Reading


@pytest.mark.parametrize("codec", ["jpeg", "zstd"])
def test_a_flipped_byte_that_still_decodes_is_damage(tmp_path: Path, codec: str) -> None:
    chosen = parameters(codec=codec)
    # Noise: zstd stores it as it is, so any byte of it can change unnoticed by the decoder.
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    encode = encode_zstd if codec == "zstd" else encode_jpeg
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        for tiles in writer.pending():
            writer.write_shard(tiles, [encode(noise)] * len(tiles))
        writer.finish()
    store = TileStore(tmp_path / "a.zarr")
    expected, (key, index) = store[3], store._shard_index(0)
    shard = bytearray((store.path / key).read_bytes())
    offset, length = index[3, 0].tolist()
    for at in range(offset + length - 8, offset + length // 2, -1):
        shard[at] ^= 1
        with suppress(StoreError):  # a byte without which it does not decode
            if not np.array_equal(decode(bytes(shard[offset : offset + length - 4]), (SIZE, SIZE)), expected):
                break
        shard[at] ^= 1
    else:
        raise AssertionError("no flipped byte changed the pixels")
    (store.path / key).write_bytes(shard)
    for read in (lambda: store[3], lambda: store.read([3]), lambda: store.encoded(3)):
        with pytest.raises(StoreError, match=r"tile 3 of .* is damaged: checksum does not match"):
            read()
    np.testing.assert_array_equal(store[2], expected)


def test_a_copied_tile_with_a_flipped_byte_is_damage_of_the_store(tmp_path: Path) -> None:
    chosen = parameters(encoding="copied", chunk=(SIZE // 2, SIZE // 2))
    store = TileStore(write_store(tmp_path / "a.zarr", chosen))
    key, index = store._shard_index(0)
    shard = bytearray((store.path / key).read_bytes())
    offset, length = index[3, 2].tolist()
    shard[offset + length - 8] ^= 1
    (store.path / key).write_bytes(shard)
    with pytest.raises(StoreError, match="checksum does not match"):
        store.read([3])


def test_a_tile_that_lost_its_pixels_is_damage_and_not_unreadable(tmp_path: Path) -> None:
    store = with_chunks(write_store(tmp_path / "a.zarr"), (3, None))
    for read in (lambda: store[3], lambda: store.read([3])):
        with pytest.raises(StoreError, match=r"tile 3 of .* is damaged: its pixels are missing"):
            read()


@pytest.mark.parametrize("bad", [b"GIF89a", encode_jpeg(pictures(1, 16)[0]), encode_zstd(pictures(1, 16)[0])])
def test_a_chunk_that_was_written_bad_is_of_the_store_or_of_the_slide(tmp_path: Path, bad: bytes) -> None:
    encoded = with_chunks(write_store(tmp_path / "encoded.zarr"), (3, bad))
    with pytest.raises(StoreError, match=r"tile 3 of .* is damaged: "):
        encoded.read([3])
    copied = with_chunks(write_store(tmp_path / "copied.zarr", parameters(encoding="copied")), (3, bad))
    with pytest.raises(UnreadableTilesError, match=r"damaged in the slide, /nowhere/a-slide\.svs"):
        copied.read([3])


def test_columns_are_of_the_right_shape_and_cannot_be_changed(store: TileStore) -> None:
    with pytest.raises(ValueError, match="read-only"):
        store.x0[0] = 7
    zarr_metadata.write_array(store.files, "x0", store.x0[:-1], ("tile",), {})
    zarr_metadata.write_array(store.files, "y0", store.y0.astype(np.int32), ("tile",), {})
    for name in ("x0", "y0"):
        with pytest.raises(StoreError, match=f"{name} is damaged"):
            getattr(TileStore(store.path), name)


def test_indexes_just_past_the_ends_are_refused(store: TileStore) -> None:
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=f"for {N} tiles"):
            store.read([index])


def test_an_incomplete_store_shows_its_written_tiles(tmp_path: Path) -> None:
    chosen = parameters()
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        writer.write_shard(range(8), chunks(chosen, range(8), (4,)))
    store, complete = TileStore(tmp_path / "a.zarr", allow_incomplete=True), TileStore(write_store(tmp_path / "b.zarr"))
    np.testing.assert_array_equal(store.read([0, 7]), complete.read([0, 7]))
    with pytest.raises(UnreadableTilesError, match="tile 4 of"):
        store.read([4])
    with pytest.raises(StoreError, match="is missing"):
        store.read([8])


# Shards


@pytest.mark.parametrize("entry", [(0, 10**6), (0, 60), (10**6, 1)])
def test_an_index_that_points_outside_the_chunks_is_damage(entry: tuple[int, int]) -> None:
    # 40 bytes of chunks, then the index of 1 slot, 20 bytes.
    index = append_crc(np.array([entry], "<u8").tobytes())
    with pytest.raises(StoreError, match="points outside"):
        decode_index(bytes(40) + index, 1, 60)


def test_an_entry_that_is_half_absent_is_absent() -> None:
    index = append_crc(np.array([(5, ABSENT), (ABSENT, 5), (0, 40)], "<u8").tobytes())
    assert decode_index(index, 3, 40 + len(index)).tolist() == [[-1, -1], [-1, -1], [0, 40]]


def test_raw_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(StoreError, match="768 bytes where 32 x 32 x 3 belong"):
        decode(encode_zstd(pictures(1, 16)[0]), (SIZE, SIZE))


def test_status_follows_from_the_chunks_and_from_the_table(tmp_path: Path) -> None:
    chosen = parameters(encoding="copied", chunk=(SIZE // 2, SIZE // 2), shard_tiles=N)
    tiles = table(chosen)
    tiles.status[[6, 7]] = Status.MISSING, Status.UNREADABLE  # known before anything is read
    parts: list[object] = list(chunks(chosen, range(N)))
    parts[0:4] = [Status.MISSING] * 4
    parts[4:8] = [Status.MISSING, None, Status.MISSING, Status.MISSING]
    parts[8:12] = [Status.MISSING, *parts[9:12]]
    with StoreWriter.open(tmp_path / "a.zarr", chosen, tiles) as writer:
        writer.write_shard(range(N), parts)  # type: ignore[arg-type]
        writer.finish()
    store = TileStore(tmp_path / "a.zarr")
    # A tile is missing where all of it was never scanned; where a part of it is lost, it is unreadable.
    unreadable, missing = Status.UNREADABLE, Status.MISSING
    assert store.status[[0, 1, 2, 6, 7]].tolist() == [missing, unreadable, unreadable, unreadable, unreadable]
    assert (store._shard_index(0)[1][[0, 1, 2, 6, 7], :, 0] == -1).all()
    assert verify(store.path) == []


def test_nothing_is_stored_of_a_tile_that_the_table_has_without_pixels(tmp_path: Path) -> None:
    chosen = parameters(shard_tiles=N)
    tiles = table(chosen)
    tiles.status[[6, 7]] = Status.MISSING, Status.UNREADABLE
    with StoreWriter.open(tmp_path / "a.zarr", chosen, tiles) as writer:
        writer.write_shard(range(N), chunks(chosen, range(N)))
        writer.finish()
    assert np.flatnonzero(TileStore(tmp_path / "a.zarr")._shard_index(0)[1][:, 0, 0] == -1).tolist() == [6, 7]
    assert verify(tmp_path / "a.zarr") == []


# Writing


def test_a_store_with_all_shards_is_done_only_once_it_is_finished(tmp_path: Path) -> None:
    chosen = parameters()
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        for tiles in writer.pending():
            writer.write_shard(tiles, chunks(chosen, tiles))
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        assert (writer.pending(), writer.done) == ([], False)
        writer.finish()
        assert writer.done
    assert TileStore(tmp_path / "a.zarr").complete


def test_a_shard_cut_on_disk_is_written_again(tmp_path: Path) -> None:
    path = write_store(tmp_path / "a.zarr")
    whole = (path / SHARD).read_bytes()
    (path / SHARD).write_bytes(whole[:-1])
    with StoreWriter.open(path, parameters(), table(parameters())) as writer:
        assert writer.pending() == [range(8)]
    write_store(path)
    assert (path / SHARD).read_bytes() == whole


def test_a_resumed_store_keeps_the_versions_it_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = parameters()
    monkeypatch.setattr("wsivit.store.writer.versions", lambda: {"wsivit": "first"})
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        writer.write_shard(range(8), chunks(chosen, range(8)))
    monkeypatch.setattr("wsivit.store.writer.versions", lambda: {"wsivit": "second"})
    assert TileStore(write_store(tmp_path / "a.zarr")).versions == {"wsivit": "first"}


def test_a_resumed_store_knows_status_and_sharpness_of_its_shards(tmp_path: Path) -> None:
    chosen = parameters()
    sharpness = [float(k) if k % 3 else None for k in range(8)]
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        writer.write_shard(range(8, 16), chunks(chosen, range(8, 16), (11,)), sharpness)
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        expected = np.full(N, np.nan, np.float32)
        expected[8:16] = [np.nan if value is None else value for value in sharpness]
        np.testing.assert_array_equal(writer.sharpness, expected)
        for tiles in writer.pending():
            writer.write_shard(tiles, chunks(chosen, tiles))
        writer.finish()
    assert np.flatnonzero(TileStore(tmp_path / "a.zarr").status == Status.UNREADABLE).tolist() == [11]


def test_unfinished_files_go_when_a_store_is_opened_for_writing(tmp_path: Path) -> None:
    chosen = parameters()
    StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)).close()
    leftover = tmp_path / "a.zarr" / "tiles" / ".tmp-1-ff-c.0.0.0.0"
    leftover.write_bytes(b"half a shard")
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)):
        assert not leftover.exists()
        leftover.write_bytes(b"half a shard")
    assert not leftover.exists()


def test_a_folder_of_tiles_without_its_document_is_resumed(tmp_path: Path) -> None:
    chosen = parameters()
    StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)).close()
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    assert verify(write_store(tmp_path / "a.zarr")) == []


def test_quality_control_has_one_value_per_tile(tmp_path: Path) -> None:
    chosen = parameters()
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        with pytest.raises(StoreError, match=f"must have {N} values"):
            writer.write_qc("pen", np.zeros(N - 1, np.float32))
        writer.write_qc("pen", np.arange(N, dtype=np.float32))
    qc = TileStore(tmp_path / "a.zarr", allow_incomplete=True).qc
    np.testing.assert_array_equal(qc["pen"], np.arange(N))
    assert list(qc) == ["pen"]


def test_a_writer_that_lost_its_lease_does_not_finish() -> None:
    chosen, memory = parameters(codec="none"), fsspec.filesystem("memory")
    try:
        with StoreWriter.open("memory://checks/a.zarr", chosen, table(chosen)) as writer:
            writer._lock.lost = True  # type: ignore[union-attr]
            with pytest.raises(StoreLockedError, match="was taken over"):
                writer.finish()
        assert not TileStore("memory://checks/a.zarr", allow_incomplete=True).complete
    finally:
        memory.rm("/checks", recursive=True)


def test_what_decides_whether_two_stores_are_the_same() -> None:
    chosen = parameters()
    assert chosen.differences(parameters(slide_path="/moved.svs")) == []
    # Nobody asked for the checksum of all bytes the second time.
    assert parameters(slide_sha256="ab").differences(chosen) == []
    assert chosen.differences(parameters(slide_sha256="ab")) == []
    assert len(parameters(slide_sha256="ab").differences(parameters(slide_sha256="cd"))) == 1
    one, other = table(chosen), table(chosen)
    other.status[3] = Status.UNREADABLE
    assert one.digest() == other.digest()
    other.tissue_fraction[3] += 0.01
    assert one.digest() != other.digest()


def test_a_block_is_pending_until_its_last_column_is_written(store: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((N, 2), np.float32)
    write, calls = zarr_metadata.write_chunk, []

    def fails(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(zarr_metadata, "write_chunk", fails)
    with pytest.raises(KeyboardInterrupt), store.predictions_writer("run", ("a", "b"), {}, ("logits",)) as writer:
        writer.write(range(N), values, values)
    with store.predictions_writer("run", ("a", "b"), {}, ("logits",)) as writer:
        assert writer.pending() == [range(N)]


# Verifying


def test_a_changed_label_document_is_refused(store: TileStore) -> None:
    store.write_labels("region", np.zeros(N), ["tumour", "stroma"])
    document = store.path / "labels/region/zarr.json"
    document.write_text(document.read_text().replace("tumour", "normal"))
    with pytest.raises(StoreError, match="is damaged"):
        store.label("region")
    assert any("labels/region/zarr.json was changed" in problem for problem in verify(store.path))


def test_a_damaged_journal_is_named(store: TileStore) -> None:
    journal = store.path / "tiles/journal.jsonl"
    text = journal.read_text()
    journal.write_text(text.replace('"sharpness": null', '"sharpness": [1.0]', 1))
    assert verify(store.path) == [f"{journal} was changed after it was written"]
    for damaged in (text.replace("{", "[", 1), text.replace('"shard"', '"sherd"', 1)):
        journal.write_text(damaged)
        with pytest.raises(StoreError, match="is damaged"):
            read_journal(store.files)
    journal.write_text("".join(text.splitlines(keepends=True)[:-1]))
    assert f"{journal} has no entry for shard 4" in verify(store.path)


def test_the_last_shard_is_verified_and_lengths_are_named(store: TileStore) -> None:
    last = store.path / "tiles/c.4.0.0.0"
    whole = last.read_bytes()
    last.write_bytes(bytes([whole[0], whole[1] ^ 1]) + whole[2:])
    assert f"tile 32 of {store.url} is damaged" in verify(store.path)
    last.write_bytes(whole[:-1])
    assert verify(store.path) == [f"{last} has {len(whole) - 1} bytes where {len(whole)} were written"]


def test_tiles_are_described_as_the_parameters_say(store: TileStore) -> None:
    other = tiles_spec(parameters(quality=50), N).to_dict()
    zarr_metadata.write_document(store.files, TILES, other, {})
    assert verify(store.path) == [f"{store.url}/tiles/zarr.json does not describe the tiles that the parameters define"]


def rewrite(store: TileStore, name: str, values: np.ndarray) -> list[str]:
    """Write a column of a store again, soundly but with other values; return what verify finds."""
    zarr_metadata.write_array(store.files, name, values, ("tile",), {})
    return verify(store.path)


def test_columns_of_other_values_are_found(store: TileStore) -> None:
    fraction = store.tissue_fraction.copy()
    fraction[5] += 0.01
    assert rewrite(store, "tissue_fraction", fraction) == [
        f"{store.url}: the columns are not those of the tiles that were written"
    ]


@pytest.mark.parametrize(
    ("tile", "status", "problem"),
    [
        (4, Status.OK, "tile 4 of {} is ok, but its pixels say otherwise"),
        (5, Status.UNREADABLE, "tile 5 of {} is unreadable, but its pixels say otherwise"),
        (4, 9, "{}/status holds undefined values"),
        (5, 9, "{}/status holds undefined values"),
    ],
)
def test_a_status_that_contradicts_the_pixels_is_found(store: TileStore, tile: int, status: int, problem: str) -> None:
    values = store.status.copy()
    values[tile] = status
    assert problem.format(store.url) in rewrite(store, "status", values)


def test_a_tile_that_lost_one_of_its_chunks_is_found(tmp_path: Path) -> None:
    chosen = parameters(encoding="copied", chunk=(SIZE // 2, SIZE // 2))
    store = TileStore(write_store(tmp_path / "a.zarr", chosen))
    parts = chunks(chosen, range(8))
    parts[4 * 3 + 1] = None
    data = b"".join(encode_shard([parts], 32))
    (store.path / SHARD).write_bytes(data)
    problems = list(_shard(store, 0, len(data), hashlib.sha256(data).hexdigest()))
    assert problems == [f"tile 3 of {store.url} is ok, but its pixels say otherwise"]


def test_columns_of_another_length_are_found(tmp_path: Path) -> None:
    chosen = parameters()
    with StoreWriter.open(tmp_path / "a.zarr", chosen, table(chosen)) as writer:
        for tiles in writer.pending():
            writer.write_shard(tiles, chunks(chosen, tiles))
        writer.write_qc("pen", np.zeros(N, np.float32))
        writer.finish()
    store = TileStore(tmp_path / "a.zarr")
    store.write_labels("region", np.zeros(N), ["a"])
    attributes = {"classes": ["a"], "none": -1}
    zarr_metadata.write_array(store.files, "labels/region", np.zeros(N - 1, np.int16), ("tile",), attributes)
    zarr_metadata.write_array(store.files, "qc/pen", np.zeros(N + 1, np.float32), ("tile",), {})
    assert verify(store.path) == [
        f"{store.url}/qc/pen has {N + 1} rows for {N} tiles",
        f"{store.url}/labels/region has {N - 1} rows for {N} tiles",
    ]


def test_predictions_without_their_document_are_no_run(store: TileStore) -> None:
    store.write_predictions("run", Predictions(np.zeros((N, 1), np.float32), ("a",)))
    document = store.path / "predictions/run/probabilities/zarr.json"
    text = json.loads(document.read_text())
    document.write_text(json.dumps({**text, "shape": [N, 2]}))
    assert any("probabilities/zarr.json was changed" in problem for problem in verify(store.path))


@pytest.mark.parametrize("change", ["pale", "none"])
def test_tiles_that_show_something_else_are_found(tmp_path: Path, change: str) -> None:
    path = write_slide(tmp_path / "s.tiff", tissue_picture(300, 200), mpp=0.5)
    with open_slide(path) as slide:
        plan = slide.plan(0.5)
        grid = TileGrid.from_plan(plan, 64)
        col, row = grid.cells()
        chosen = replace(
            parameters(codec="zstd"),
            slide_fingerprint=slide.fingerprint,
            slide_size=slide.dimensions,
            plan=asdict(plan),
            grid=grid,
            chunk=(64, 64),
            shard_tiles=64,
        )
        tiles = TileTable.from_grid(grid, col, row, np.ones(len(grid)))
        pixels = slide.read_tiles(plan, 64, *grid.plane_xy(col, row))
        with StoreWriter.open(tmp_path / "a.zarr", chosen, tiles) as writer:
            # Of less contrast, but not shifted.
            shown = [tile // 2 + 100 if change == "pale" else tile for tile in pixels]  # type: ignore[operator]
            writer.write_shard(range(len(tiles)), [encode_zstd(tile) for tile in shown])  # type: ignore[arg-type]
            writer.finish()
    problems = verify(tmp_path / "a.zarr", slide=path)
    assert len(problems) == (len(tiles) if change == "pale" else 0)
