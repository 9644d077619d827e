"""Native tiles that a level's file leaves out: the next finer level fills them, and a wrong level is not believed."""

from __future__ import annotations

import logging
from pathlib import Path

import fsspec
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from support import slide_helpers

import wsivit
from wsivit import TileOptions
from wsivit.slide import Level
from wsivit.slide.backend import TileMask
from wsivit.slide.holes import Holes
from wsivit.store import Status

SIDE, TILE = 2048, 128
STEPS = (1, 4, 16)
FINEST = SIDE // TILE
UNDER = [row * FINEST + col for row in range(4, 8) for col in range(4, 8)]  # level-0 tiles below tile 5 of level 1
Picture = NDArray[np.uint8]


def smaller(picture: Picture, step: int) -> Picture:
    height, width, _ = picture.shape
    blocks = picture.reshape(height // step, step, width // step, step, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def planes() -> dict[int, Picture]:
    """Tissue in the middle and right of white glass, and the exact means of it."""
    picture = np.full((SIDE, SIDE, 3), 240, np.uint8)
    coarse = slide_helpers.texture(SIDE // 16, SIDE // 16, seed=3, grain=25)
    picture[512:1792, 384:] = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[512:1792, 384:] // 2 + 70
    return {step: smaller(picture, step) for step in STEPS}


def write(
    path: Path, planes: dict[int, Picture], compression: str | int = "jpeg", *, aperio: bool = False, big: bool = False
):  # type: ignore[no-untyped-def]
    text = (
        f"Aperio Image Library v12\r\n{SIDE}x{SIDE} [0,0 {SIDE}x{SIDE}] ({TILE}x{TILE}) Q=90|AppMag = 20|MPP = 0.5000"
    )
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        for step, plane in planes.items():
            if step == 4 and aperio:
                thumbnail = "Aperio Image Library v12\r\n2048x2048 -> 128x128 - |AppMag = 20"
                tiff.write(planes[16], photometric="rgb", compression="deflate", description=thumbnail, metadata=None)
            tiff.write(
                plane,
                tile=(TILE, TILE),
                photometric="rgb",
                compression=compression,
                compressionargs={"level": 95} if compression == "jpeg" else None,
                subfiletype=int(step > 1),
                description=text if aperio else None,
                metadata=None,
                software="" if aperio else None,
                resolution=(20000 / step, 20000 / step),
                resolutionunit="CENTIMETER",
            )
    return path


def leave_out(path: Path, level: int, tiles: list[int], how: str = "both") -> None:
    """Take tiles out of the index: no bytes, no place, neither, or a place past the end of the file."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = [page for page in tiff.pages if page.is_tiled][level]
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        for tile in tiles:
            if how == "shared":
                offsets[tile] = offsets[tile - 1]
            if how == "beyond":
                offsets[tile] = path.stat().st_size + 1
            if how in ("both", "offset"):
                offsets[tile] = 0
            if how in ("both", "count", "shared"):
                counts[tile] = 0
        page.tags["TileByteCounts"].overwrite(tuple(counts))
        page.tags["TileOffsets"].overwrite(tuple(offsets))


def store_of(path: Path, folder: Path, mpp: float, reader: str = "auto", **how):  # type: ignore[no-untyped-def]
    options = TileOptions(mpp=mpp, tile_size=TILE, **{"tissue": "none", "quality": 95, **how})
    with wsivit.open_slide(path, reader=reader) as slide:  # type: ignore[arg-type]
        return wsivit.tile(slide, folder, options)


def worst(store: wsivit.TileStore, plane: Picture) -> float:
    """Largest mean difference of a readable tile from the plane it is cut from."""
    found = [0.0]
    for i in np.flatnonzero(np.isin(store.status, (Status.OK, Status.PADDED))).tolist():
        top, left = int(store.row[i]) * TILE, int(store.col[i]) * TILE
        expected = plane[top : top + TILE, left : left + TILE].astype(int)
        found.append(np.abs(store[i][: expected.shape[0], : expected.shape[1]] - expected).mean())
    return max(found)


@pytest.mark.parametrize("how", ["both", "count", "offset", "shared", "beyond"])
@pytest.mark.parametrize("aperio", [False, True])
def test_a_hole_of_a_level_is_filled_whatever_the_index_says(
    planes: dict[int, Picture], tmp_path: Path, how: str, aperio: bool
) -> None:
    path = write(tmp_path / "s.tif", planes, aperio=aperio)
    leave_out(path, 1, [5, 6, 7], how)
    done = store_of(path, tmp_path / "out", 2.0)
    assert len(done.store) == 16 and set(done.store.status) == {Status.OK}
    assert worst(done.store, planes[4]) < 3
    assert done.store.parameters.filled == 3 and done.origins.copied == 13
    assert wsivit.info(path).filled_tiles == (0, 3, 1 if aperio else 0)


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "lzw", "jpeg2000", "none"])
@pytest.mark.parametrize("reader", ["native", "openslide", "tiffslide"])
def test_every_reader_and_compression_fills_holes(
    planes: dict[int, Picture], tmp_path: Path, compression: str, reader: str
) -> None:
    aperio = (compression, reader) == ("jpeg2000", "openslide")  # it reads it of Aperio slides only
    number = 33005 if aperio else compression
    path = write(tmp_path / "s.tif", planes, number, aperio=aperio, big=compression == "lzw")
    leave_out(path, 1, [5, 6])
    for mpp, step in ((2.0, 4), (4.0, 8)):
        done = store_of(path, tmp_path / f"{step}", mpp, reader)
        assert set(done.store.status) == {Status.OK}
        assert worst(done.store, smaller(planes[1], step)) < 3.5
        assert done.store.parameters.filled == 2


@pytest.mark.parametrize("levels", [(2,), (1,), (1, 2)])
def test_levels_without_any_tile_lose_no_tissue(
    planes: dict[int, Picture], tmp_path: Path, levels: tuple[int, ...]
) -> None:
    whole = store_of(write(tmp_path / "s.tif", planes), tmp_path / "whole", 0.5, tissue="auto").store
    path = write(tmp_path / "h.tif", planes)
    for level in levels:
        leave_out(path, level, list(range(16 if level == 1 else 1)))
    holed = store_of(path, tmp_path / "holed", 0.5, tissue="auto").store
    cells = [set(zip(store.col.tolist(), store.row.tolist(), strict=True)) for store in (whole, holed)]
    assert len(cells[0]) > 90
    assert len(cells[0] ^ cells[1]) <= 0.05 * len(cells[0])
    assert worst(store_of(path, tmp_path / "coarse", 2.0).store, planes[4]) < 3


def test_what_every_finer_level_lacks_was_never_scanned(planes: dict[int, Picture], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", planes)
    leave_out(path, 0, UNDER)
    kept = store_of(path, tmp_path / "kept", 2.0).store
    assert set(kept.status) == {Status.OK} and worst(kept, planes[4]) < 3  # level 1 has its own bytes
    leave_out(path, 1, [5])
    for reader in ("native", "openslide", "tiffslide"):
        done = store_of(path, tmp_path / reader, 2.0, reader)
        assert np.flatnonzero(done.store.status == Status.MISSING).tolist() == [5]
        assert worst(done.store, planes[4]) < 3
        assert done.store.parameters.filled == 0
        finest = store_of(path, tmp_path / f"{reader}0", 0.5, reader).store
        assert np.flatnonzero(finest.status == Status.MISSING).tolist() == UNDER


def test_a_hole_over_a_partly_scanned_place_is_filled_in_part(planes: dict[int, Picture], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", planes)
    leave_out(path, 0, UNDER[:8])
    leave_out(path, 1, [5])
    expected = planes[4][128:256, 128:256].astype(int)
    expected[:64] = 255
    for reader in ("native", "openslide", "tiffslide"):
        tile = store_of(path, tmp_path / reader, 2.0, reader, codec="zstd").store[5]
        assert np.abs(tile.astype(int) - expected)[:62].max() == 0
        assert np.abs(tile.astype(int) - expected).mean() < 3


def test_in_a_process_of_its_own_holes_are_filled_too(planes: dict[int, Picture], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", planes)
    leave_out(path, 1, [5, 6])
    with wsivit.open_slide(path, subprocess=True) as slide:
        done = wsivit.tile(slide, tmp_path / "out", TileOptions(mpp=2.0, tile_size=TILE, tissue="none"))
    assert worst(done.store, planes[4]) < 3
    assert done.store.parameters.filled == 2 and done.origins.copied == 14


def test_a_remote_slide_is_filled_too(planes: dict[int, Picture], tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", planes)
    leave_out(path, 1, [5, 6])
    memory = fsspec.filesystem("memory")
    memory.pipe("/holes/s.tif", path.read_bytes())
    try:
        with wsivit.open_slide("memory://holes/s.tif") as slide:
            done = wsivit.tile(slide, tmp_path / "out", TileOptions(mpp=2.0, tile_size=TILE, tissue="none"))
    finally:
        memory.rm("/holes", recursive=True)
    assert worst(done.store, planes[4]) < 3 and done.store.parameters.filled == 2


def test_openslide_agrees_where_it_draws_holes_itself(planes: dict[int, Picture], tmp_path: Path) -> None:
    path = write(tmp_path / "s.svs", planes, aperio=True)
    leave_out(path, 1, [5, 9])
    with openslide.OpenSlide(path) as theirs, wsivit.open_slide(path, reader="native") as ours:
        drawn = np.asarray(theirs.read_region((0, 0), 1, (512, 512)).convert("RGB")).astype(int)
        read = ours.read(ours.plan(2.0), 0, 0, 512, 512)
    assert np.abs(drawn - read).mean() < 2


def test_aperio_levels_made_of_levels_with_holes_are_not_believed(planes: dict[int, Picture], tmp_path: Path) -> None:
    """Aperio's writer makes level 2 of level 1: what is left out there is black in it."""
    black = {**planes, 16: planes[16].copy()}
    black[16][32:64, 32:64] = 0
    path = write(tmp_path / "s.svs", black, aperio=True)
    leave_out(path, 1, [5])
    with wsivit.open_slide(path, reader="native") as slide:
        assert slide.info().filled_tiles == (0, 1, 1)
        whole = slide.read(slide.plan(8.0), 0, 0, 128, 128).astype(int)
    assert np.abs(whole - planes[16]).mean() < 2


@pytest.mark.parametrize("value", [255, 240, 0])
def test_a_coarse_level_that_shows_no_tissue_is_not_believed(
    planes: dict[int, Picture], tmp_path: Path, caplog: pytest.LogCaptureFixture, value: int
) -> None:
    whole = store_of(write(tmp_path / "s.tif", planes), tmp_path / "whole", 0.5, tissue="auto").store
    wrong = {**planes, 4: planes[4].copy(), 16: planes[16].copy()}
    wrong[4][:256], wrong[16][:64] = value, value
    path = write(tmp_path / "w.tif", wrong)
    with caplog.at_level(logging.WARNING):
        done = store_of(path, tmp_path / "out", 0.5, tissue="auto")
        coarse = store_of(path, tmp_path / "coarse", 2.0, tissue="auto").store
    assert "level 1 of the slide is wrong" in caplog.text and "read from level 0" in caplog.text
    np.testing.assert_allclose(len(done.store), len(whole), rtol=0.05)
    assert coarse.parameters.plan.level == 0 and worst(coarse, planes[4]) < 3


def test_rough_pyramids_are_believed(
    planes: dict[int, Picture], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Levels made by leaving out pixels, sharpened, or heavily compressed."""
    picked = {step: planes[1][step // 2 :: step, step // 2 :: step] for step in STEPS}
    sharp = {
        step: np.clip(2 * plane.astype(int) - np.roll(plane, 1, 0), 0, 255).astype(np.uint8)
        for step, plane in planes.items()
    }
    with caplog.at_level(logging.WARNING):
        for name, levels in (("picked", picked), ("sharp", {**sharp, 1: planes[1]})):
            store_of(write(tmp_path / f"{name}.tif", levels), tmp_path / name, 0.5, tissue="auto")
    assert "wrong" not in caplog.text


def test_holes_are_found_through_levels_of_other_ratios() -> None:
    """A closed form: a tile is filled where any finer tile that it overlaps is stored, or filled itself."""
    sizes = [(1000, 700), (333, 233), (50, 35)]
    levels = [Level(w, h, 1000 / w, 700 / h) for w, h in sizes]
    rng = np.random.default_rng(4)
    tiles = []
    for (width, height), side in zip(sizes, (64, 32, 16), strict=True):
        tiles.append(TileMask(side, side, rng.random((-(-height // side), -(-width // side))) < 0.3))
    holes = Holes(levels, tiles)
    shown = tiles[0].where
    for number in (1, 2):
        own, finer = tiles[number], tiles[number - 1]
        expected = np.zeros_like(own.where)
        ratio_x, ratio_y = sizes[number - 1][0] / sizes[number][0], sizes[number - 1][1] / sizes[number][1]
        for row, col in np.argwhere(~own.where).tolist():
            top, bottom = (n * own.height * ratio_y for n in (row, row + 1))
            left, right = (n * own.width * ratio_x for n in (col, col + 1))
            for r, c in np.argwhere(shown).tolist():
                beside = c * finer.width >= right or (c + 1) * finer.width <= left
                expected[row, col] |= not (beside or r * finer.height >= bottom or (r + 1) * finer.height <= top)
        found = holes.filled(number)
        np.testing.assert_array_equal(found.where if found else np.zeros_like(expected), expected)
        shown = own.where | expected
