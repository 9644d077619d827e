"""Verifying: nothing that is not what was written goes unseen, and a store is compared with its slide."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import N, parameters, table, tree_digest, write_store

from wsivit.errors import SlideNotFoundError, StoreError, StoreMismatchError, UnreadableTilesError
from wsivit.slide import Slide, TileFailure, open_slide
from wsivit.slide.grid import TileGrid
from wsivit.store import Predictions, StoreParameters, StoreWriter, TileStore, TileTable
from wsivit.store.shard import encode_jpeg
from wsivit.store.verify import compare_with_slide, verify


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = write_store(tmp_path / "a.zarr", unreadable=(4,))
    TileStore(path).write_labels("region", np.arange(N) % 2, ["a", "b"])
    TileStore(path).write_predictions("vit", Predictions(np.full((N, 2), 0.5, np.float32), ("a", "b"), {"t": 1e-05}))
    return path


def test_a_whole_store_has_no_problems(store: Path, tmp_path: Path) -> None:
    before = tree_digest(store)
    assert verify(store) == []
    assert tree_digest(store) == before
    for chosen in (parameters(codec="zstd"), parameters(encoding="copied", chunk=(8, 16)), parameters(codec="none")):
        assert verify(write_store(tmp_path / f"{chosen.codec}-{chosen.encoding}.zarr", chosen)) == []


def test_every_flipped_bit_is_found(store: Path) -> None:
    flipped_bits(store, 80, seed=0)


def flipped_bits(store: Path, times: int, seed: int) -> None:
    """Flip bits, one at a time, anywhere in a store, and have each of them found."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in store.rglob("*") if file.is_file())
    # Half of the flips by file, so that small files are hit too, half of them by byte.
    sizes = np.array([file.stat().st_size for file in files])
    for weights in (np.ones(len(files)) / len(files), sizes / sizes.sum()):
        for file in rng.choice(np.array(files, object), times // 2, p=weights):
            whole = file.read_bytes()
            at, bit = rng.integers(len(whole)), rng.integers(8)
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            assert verify(store), f"bit {bit} of byte {at} of {file}"
            file.write_bytes(whole)
    assert verify(store) == []


def test_every_missing_empty_or_cut_file_is_found(store: Path) -> None:
    damaged_files(store, seed=0)


def damaged_files(store: Path, seed: int) -> None:
    """Remove, empty and cut every file of a store in turn, and have each of them found."""
    rng = np.random.default_rng(seed)
    for file in sorted(file for file in store.rglob("*") if file.is_file()):
        whole = file.read_bytes()
        for damaged in (None, b"", whole[: rng.integers(len(whole))], whole + b"\0"):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            try:
                assert verify(store), f"{file} {damaged!r}"
            except StoreError:
                assert file == store / "zarr.json"
                assert damaged is None
            file.write_bytes(whole)


def lost_files(store: Path, times: int, seed: int) -> dict[str, int]:
    """Cut, remove or empty a file of a store, one at a time, so often each, and have each of them found."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in store.rglob("*") if file.is_file())
    found = dict.fromkeys(("cut", "missing", "empty"), 0)
    for how in found:
        for file in rng.choice(np.array(files, object), times):
            whole = file.read_bytes()
            file.unlink()
            if how != "missing":
                file.write_bytes(whole[: rng.integers(1, len(whole))] if how == "cut" else b"")
            try:
                found[how] += bool(verify(store))
            except StoreError:
                found[how] += 1
            file.write_bytes(whole)
    assert verify(store) == []
    return found


@pytest.mark.parametrize("name", ["x0", "tiles", "tissue_mask", "status"])
def test_a_missing_array_is_found(store: Path, name: str) -> None:
    shutil.rmtree(store / name)
    assert any(f"/{name}" in problem for problem in verify(store))


def test_the_damaged_tile_is_named(store: Path) -> None:
    shard = store / "tiles/c.1.0.0.0"
    index = TileStore(store)._shard_index(1)[1]
    whole = bytearray(shard.read_bytes())
    whole[index[3, 0, 0] + 5] ^= 1
    shard.write_bytes(whole)
    assert verify(store) == [
        f"{shard} is damaged: not the bytes that were written",
        f"tile 11 of {store} is damaged",
    ]


def test_files_of_another_store_are_found(store: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "b.zarr", parameters(quality=50))
    for name in ("tiles/c.2.0.0.0", "tiles/journal.jsonl", "status/c.0", "zarr.json"):
        whole = (store / name).read_bytes()
        shutil.copy(other / name, store / name)
        assert verify(store), name
        (store / name).write_bytes(whole)
    shutil.copy(store / "x0/c.0", store / "y0/c.0")
    assert f"{store}: x0, y0 are not where the grid has the tiles" in verify(store)


def test_a_half_built_store_and_no_store(tmp_path: Path) -> None:
    StoreWriter.open(tmp_path / "a.zarr", parameters(), table(parameters())).close()
    assert verify(tmp_path / "a.zarr") == [f"{tmp_path / 'a.zarr'} is not complete"]
    assert TileStore.is_store(tmp_path / "a.zarr")
    assert not TileStore.is_store(tmp_path)
    with pytest.raises(StoreError, match="not a tile store"):
        verify(tmp_path)


# Against the slide


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "a.tiff", tissue_picture(900, 700), mpp=0.5)


def of_slide(slide: Slide, mpp: float, **changes: object) -> tuple[StoreParameters, TileTable]:
    plan = slide.plan(mpp)
    grid = TileGrid.from_plan(plan, 64)
    col, row = grid.cells()
    chosen = replace(
        parameters(),
        slide_path=slide.path,
        slide_fingerprint=slide.fingerprint,
        slide_size=slide.dimensions,
        plan=plan,
        grid=grid,
        chunk=(64, 64),
        open_options=slide.open_options,
        shard_tiles=64,
        **changes,
    )
    return chosen, TileTable.from_grid(grid, col, row, np.ones(len(grid)))


def tile_slide(path: Path, slide: Slide, mpp: float, shift: int = 0) -> Path:
    chosen, tiles = of_slide(slide, mpp)
    x, y = chosen.grid.plane_xy(tiles.col, tiles.row)
    with StoreWriter.open(path, chosen, tiles) as writer:
        for part in writer.pending():
            pixels = slide.read_tiles(slide.plan(mpp), 64, x[part.start : part.stop] + shift, y[part.start : part.stop])
            writer.write_shard(part, [encode_jpeg(tile) for tile in pixels])  # type: ignore[arg-type]
        writer.finish()
    return path


@pytest.mark.parametrize("mpp", [0.5, 1.3])
def test_a_store_is_its_slides(slide_path: Path, tmp_path: Path, mpp: float) -> None:
    with open_slide(slide_path) as slide:
        path = tile_slide(tmp_path / "a.zarr", slide, mpp)
        compared = compare_with_slide(TileStore(path), slide)
    assert verify(path, slide=slide_path) == []
    assert len(compared) == min(32, len(TileStore(path)))
    assert min(tile.psnr for tile in compared) > 33
    assert max(abs(s) for tile in compared for s in tile.shift) < 0.05


def test_a_shifted_store_is_found(slide_path: Path, tmp_path: Path) -> None:
    with open_slide(slide_path) as slide:
        path = tile_slide(tmp_path / "a.zarr", slide, 0.5, shift=1)
    problems = verify(path, slide=slide_path, sample=1000)
    assert len(problems) > 40
    assert all("not what the slide has there" in problem for problem in problems)


def test_another_slide_is_found(slide_path: Path, tmp_path: Path) -> None:
    other = write_slide(tmp_path / "b.tiff", tissue_picture(900, 700, seed=1))
    with open_slide(slide_path) as slide:
        path = tile_slide(tmp_path / "a.zarr", slide, 0.5)
    assert "not the slide of" in verify(path, slide=other)[0]
    assert "nowhere.svs" in verify(path, slide=tmp_path / "nowhere.svs")[0]


def test_the_shift_that_is_measured_is_the_shift_that_is_there(slide_path: Path, tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:64]

    class Moved:
        def read_tiles(self, plan: object, size: int, xs: np.ndarray, ys: np.ndarray) -> list[np.ndarray]:
            return [wave(0.0) for _ in xs]

    def wave(shift: float) -> np.ndarray:
        grey = 128 + 60 * np.sin((x - shift) / 7) + 50 * np.cos((y + 2 * shift) / 9)
        return np.rint(np.repeat(grey[:, :, None], 3, axis=2)).astype(np.uint8)

    with open_slide(slide_path) as slide:
        chosen, tiles = of_slide(slide, 0.5, codec="none")
    chosen = replace(chosen, codec="zstd")
    with StoreWriter.open(tmp_path / "a.zarr", chosen, tiles) as writer:
        from wsivit.store.shard import encode_zstd

        for part in writer.pending():
            writer.write_shard(part, [encode_zstd(wave(0.1)) for _ in part])
        writer.finish()
    compared = compare_with_slide(TileStore(tmp_path / "a.zarr"), Moved(), 1)  # type: ignore[arg-type]
    np.testing.assert_allclose(compared[0].shift, (0.1, -0.2), atol=0.02)


# Reading through to the slide


def coordinates_only(path: Path, slide_path: Path) -> Path:
    with open_slide(slide_path) as slide:
        chosen, tiles = of_slide(slide, 0.5, codec="none")
    with StoreWriter.open(path, chosen, tiles) as writer:
        assert writer.pending() == []
        writer.finish()
    return path


def test_a_store_without_pixels_reads_the_slide(slide_path: Path, tmp_path: Path) -> None:
    store = TileStore(coordinates_only(tmp_path / "a.zarr", slide_path))
    assert not store.has_pixels
    assert not (store.path / "tiles").exists()
    with open_slide(slide_path) as slide:
        for index in (0, 17, len(store) - 1):
            x, y = store.grid.plane_xy(store.col[index], store.row[index])
            expected = slide.read(slide.plan(0.5), int(x), int(y), 64, 64)
            np.testing.assert_array_equal(store[index], expected)
    np.testing.assert_array_equal(store.read([5, 2, 9])[1], store[2])
    with pytest.raises(StoreError, match="no pixels of its own"):
        store.encoded(0)
    assert verify(store.path, slide=slide_path) == []


def test_a_slide_that_is_gone_or_another_is_said(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.tiff", tissue_picture(300, 200))
    path = coordinates_only(tmp_path / "a.zarr", slide)
    write_slide(tmp_path / "a.tiff", tissue_picture(300, 200, seed=5))
    with pytest.raises(StoreMismatchError, match="its content differs"):
        TileStore(path)[0]
    slide.unlink()
    with pytest.raises(SlideNotFoundError, match=r"a\.tiff"):
        TileStore(path)[0]


def test_a_tile_that_the_slide_cannot_give_is_an_error(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TileStore(coordinates_only(tmp_path / "a.zarr", slide_path))
    failing: Callable[..., object] = lambda *_: iter([TileFailure("torn")])  # noqa: E731
    monkeypatch.setattr(Slide, "read_tiles", failing)
    with pytest.raises(UnreadableTilesError, match="torn"):
        store[3]
