"""Tiles that other tools have chosen: their files, written here in their layouts, become stores of the same tiles."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide

from wsivit import ImportOptions, TileOptions, TileStore, export, import_tiles, open_slide, tile
from wsivit.cli.app import main
from wsivit.errors import InputNotFoundError, ScaleError, StoreMismatchError, UsageError
from wsivit.store import Predictions

h5py = pytest.importorskip("h5py")
WIDTH, HEIGHT = 1100, 900
CORNERS = np.array([[0, 0], [512, 256], [256, 256], [768, 512]])
CELLS = [[0, 0], [1, 1], [2, 1], [3, 2]]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("import") / "s.tiff", tissue_picture(WIDTH, HEIGHT), mpp=0.25)


def write_trident(path: Path, corners: Any = CORNERS, **changes: Any) -> Path:
    told = {
        "name": "s", "savetodir": "elsewhere", "patch_size": 128, "patch_size_level0": 256, "overlap": 0,
        "level0_magnification": 40, "target_magnification": 20, "level0_width": WIDTH, "level0_height": HEIGHT,
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.asarray(corners, np.int64)).attrs.update(told | changes)
    return path


def write_clam(path: Path, corners: Any = CORNERS, level: int = 1) -> Path:
    size = np.array([WIDTH, HEIGHT]) // 2**level
    told = {
        "patch_size": 256 >> level, "patch_level": level, "downsample": np.array([2.0**level, 2.0**level]),
        "downsampled_level_dim": size, "level_dim": size, "name": "s", "save_path": "elsewhere",
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.asarray(corners, np.int32)).attrs.update(told)
    return path


def write_hs2p(path: Path, corners: Any = CORNERS, **changes: Any) -> Path:
    corners = np.asarray(corners, np.int64)
    fractions = np.linspace(0.25, 1, len(corners), dtype=np.float32)
    index = np.arange(len(corners), dtype=np.int32)
    np.savez_compressed(path, tile_index=index, x=corners[:, 0], y=corners[:, 1], tissue_fractions=fractions)
    tiling = {
        "requested_tile_size_px": 128, "requested_spacing_um": 0.5, "tile_size_lv0": 256, "step_px_lv0": 256,
        "overlap": 0.0, "n_tiles": len(corners),
    }  # fmt: skip
    meta = {"slide": {"dimensions": [WIDTH, HEIGHT]}, "tiling": tiling | changes}
    path.with_name(path.name.replace(".npz", ".meta.json")).write_text(json.dumps(meta))
    return path


def write_wsinfer(path: Path, corners: Any = CORNERS, side: int = 256) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["minx", "miny", "width", "height", "prob_tumor", "prob_other"])
        table.writerows([x, y, side, side, 0.75, 0.25] for x, y in np.asarray(corners).tolist())
    return path


def predicted(store: TileStore) -> TileStore:
    """Give it the predictions that it is exported with."""
    store.write_predictions("run", Predictions(np.full((len(store), 2), 0.5, np.float32), ("a", "b")))
    return store


def cells(store: TileStore) -> list[list[int]]:
    return np.stack([store.col, store.row], axis=1).tolist()


NAMES = {"t.h5": write_trident, "c.h5": write_clam, "s.coordinates.npz": write_hs2p, "w.csv": write_wsinfer}
SAID = {"w.csv": ImportOptions(tile_size=128)}


@pytest.mark.parametrize("name", NAMES)
def test_tiles_of_each_tool_become_the_same_store(name: str, slide: Path, tmp_path: Path) -> None:
    done = import_tiles(NAMES[name](tmp_path / name), slide, tmp_path, SAID.get(name, ImportOptions()))
    store = TileStore(tmp_path / "s.zarr")
    assert cells(store) == CELLS
    assert np.stack([store.x0, store.y0], axis=1).tolist() == sorted(CORNERS.tolist(), key=lambda xy: xy[::-1])
    assert (store.grid.tile_size, store.grid.overlap, store.parameters.mpp) == (128, 0, (0.5, 0.5))
    assert store.parameters.tissue["file"] == name
    assert store.parameters.min_tissue == 0
    assert not store.has_pixels
    assert store.tissue_mask[0].mean() == pytest.approx(4 * 256**2 / (WIDTH * HEIGHT), rel=0.25)
    assert Path(done.preview).is_file()


def test_pixels_are_those_of_the_slide_at_the_scale_of_the_tiles(slide: Path, tmp_path: Path) -> None:
    store = import_tiles(write_trident(tmp_path / "t.h5"), slide, tmp_path).store
    tile(slide, tmp_path / "tiled", TileOptions(0.5, 128, min_tissue=0, codec="zstd"))
    whole = TileStore(tmp_path / "tiled" / "s.zarr")
    same = [cells(whole).index(cell) for cell in CELLS]
    np.testing.assert_array_equal(store.read(range(4)), whole.read(same))


def test_tissue_fractions_come_along(slide: Path, tmp_path: Path) -> None:
    store = import_tiles(write_hs2p(tmp_path / "s.coordinates.npz"), slide, tmp_path).store
    assert store.tissue_fraction.tolist() == [0.25, 0.75, 0.5, 1.0]  # in reading order


@pytest.mark.parametrize("tiling", [TileOptions(0.5, 128), TileOptions(0.61, 96, 24), TileOptions(0.25, 100)])
def test_what_is_exported_comes_back(tiling: TileOptions, slide: Path, tmp_path: Path) -> None:
    before = tile(slide, tmp_path / "before", tiling).store
    export(predicted(before), "h5", tmp_path / "s.h5")
    after = import_tiles(tmp_path / "s.h5", slide, tmp_path / "after").store
    assert len(after) == len(before) > 3
    assert (after.col == before.col).all()
    assert (after.x0 == before.x0).all()
    assert after.parameters.mpp == pytest.approx(before.parameters.mpp, rel=1e-9)
    assert after.grid.overlap == before.grid.overlap


@pytest.mark.parametrize(("mpp", "said"), [(0.5, {"tile_size": 96}), (0.61, {"mpp": 0.61}), (0.5, {"mpp": 0.5})])
def test_an_exported_table_comes_back(mpp: float, said: dict[str, Any], slide: Path, tmp_path: Path) -> None:
    before = tile(slide, tmp_path / "before", TileOptions(mpp, 96, 24, min_tissue=0)).store
    export(predicted(before), "csv", tmp_path / "s.csv")
    after = import_tiles(tmp_path / "s.csv", slide, tmp_path / "after", ImportOptions(overlap=24, **said)).store
    assert cells(after) == cells(before)
    assert (after.x0 == before.x0).all()
    assert (after.status == before.status).all()


def test_again_it_does_nothing_and_other_tiles_are_refused(slide: Path, tmp_path: Path) -> None:
    import_tiles(write_trident(tmp_path / "t.h5"), slide, tmp_path)
    import_tiles(tmp_path / "t.h5", slide, tmp_path)
    write_trident(tmp_path / "t.h5", CORNERS[:2])
    with pytest.raises(StoreMismatchError, match="sha256"):
        import_tiles(tmp_path / "t.h5", slide, tmp_path)
    assert len(import_tiles(tmp_path / "t.h5", slide, tmp_path, force=True).store) == 2


def test_a_tile_that_is_there_twice_or_ends_past_the_slide(slide: Path, tmp_path: Path) -> None:
    corners = [[0, 0], [0, 0], [1024, 768]]
    store = import_tiles(write_clam(tmp_path / "c.h5", corners, level=0), slide, tmp_path).store
    assert cells(store) == [[0, 0], [4, 3]]
    assert store.status.tolist() == [0, 1]


def test_tiles_in_the_overlap_of_the_last_are_left_out(
    slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corners = [[0, 0], [896, 0], [1024, 0]]  # the one at 896 reaches past the end already
    store = import_tiles(write_trident(tmp_path / "t.h5", corners, overlap=64), slide, tmp_path).store
    assert cells(store) == [[0, 0], [7, 0]]
    assert "1 tiles at the slide's edge are left out" in caplog.text


OFF = [[0, 0], [300, 0], [556, 0], [813, 256]]


@pytest.mark.parametrize("name", ["t.h5", "c.h5", "s.coordinates.npz", "w.csv"])
def test_tiles_off_the_lattice_are_refused_or_snapped(name: str, slide: Path, tmp_path: Path) -> None:
    path, said = NAMES[name](tmp_path / name, OFF), SAID.get(name, ImportOptions())
    with pytest.raises(UsageError, match=rf"{name}: 3 of 4 tiles are not on a lattice.* up to 45 pixels.* snap"):
        import_tiles(path, slide, tmp_path, said)
    assert not (tmp_path / "s.zarr").exists()
    store = import_tiles(path, slide, tmp_path, ImportOptions(said.tile_size, snap=True)).store
    assert cells(store) == [[0, 0], [1, 0], [2, 0], [3, 1]]
    assert store.parameters.tissue["snapped"] == 3


def test_another_slide_is_refused(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of a slide of 5000 x 900 pixels"):
        import_tiles(write_trident(tmp_path / "t.h5", level0_width=5000), slide, tmp_path)
    with pytest.raises(UsageError, match="1 of 2 tiles start outside"):
        import_tiles(write_clam(tmp_path / "c.h5", [[0, 0], [5120, 0]]), slide, tmp_path)
    with pytest.raises(UsageError, match="1 of 2 tiles start outside"):
        import_tiles(write_clam(tmp_path / "c.h5", [[0, 0], [-256, 0]]), slide, tmp_path)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (ImportOptions(), "does not say at which scale"),
        (ImportOptions(tile_size=128, mpp=1.0), "have 0.5 microns per pixel, not 1"),
        (ImportOptions(tile_size=128, overlap=128), "overlap must be"),
    ],
)
def test_what_does_not_fit_is_refused(said: ImportOptions, match: str, slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        import_tiles(write_wsinfer(tmp_path / "w.csv"), slide, tmp_path, said)


def test_a_scale_that_contradicts_the_file_or_the_slide_is_refused(slide: Path, tmp_path: Path) -> None:
    path = write_trident(tmp_path / "t.h5")
    with pytest.raises(UsageError, match="tile size is 128, as it says, and not 256"):
        import_tiles(path, slide, tmp_path, ImportOptions(tile_size=256))
    with pytest.raises(ScaleError, match="finer than the slide"):
        import_tiles(write_trident(tmp_path / "t.h5", patch_size=512), slide, tmp_path)
    with open_slide(slide) as opened, pytest.raises(UsageError, match="open already"):
        import_tiles(path, opened, tmp_path, slide_mpp=0.5)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.txt", b"", r"tile coordinates are \.h5, \.hdf5, \.npz, \.csv, \.parquet files"),
        ("t.h5", b"no H5", "cannot be read"),
        ("w.csv", b"minx,miny,width\n1,2,3\n", "no height"),
        ("w.csv", b"minx,miny,width,height\n", "no rows"),
        ("w.csv", b"minx,miny,width,height\n0,0,256\n", "cannot be read"),
        ("w.csv", b"minx,miny,width,height\n0,0,nan,256\n", "cannot be read"),
        ("w.csv", b"minx,miny,width,height\n0,0,256,128\n", "several sizes"),
        ("w.csv", b"minx,miny,width,height\n0,nan,256,256\n", "not all coordinates"),
        ("w.csv", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_files_are_named(name: str, content: bytes, match: str, slide: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=match) as raised:
        import_tiles(tmp_path / name, slide, tmp_path, ImportOptions(tile_size=128))
    assert name in str(raised.value)


def test_bad_arrays_are_named(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tiles"):
        import_tiles(write_trident(tmp_path / "t.h5", np.zeros((0, 2))), slide, tmp_path)
    with pytest.raises(UsageError, match=r"not \(n, 2\)"):
        import_tiles(write_trident(tmp_path / "t.h5", [1, 2, 3]), slide, tmp_path)
    for wrong in ({"patch_size": 0}, {"overlap": 128}, {"overlap": -8}, {"patch_size_level0": np.inf}):
        with pytest.raises(UsageError, match="cannot be read"):
            import_tiles(write_trident(tmp_path / "t.h5", **wrong), slide, tmp_path)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(UsageError, match="there is no coords"):
        import_tiles(tmp_path / "t.h5", slide, tmp_path)
    path = write_hs2p(tmp_path / "s.coordinates.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        import_tiles(path, slide, tmp_path)
    (tmp_path / "s.coordinates.meta.json").unlink()
    with pytest.raises(InputNotFoundError, match=r"meta\.json is not there"):
        import_tiles(path, slide, tmp_path)
    with pytest.raises(InputNotFoundError, match="is not there"):
        import_tiles(tmp_path / "nowhere.csv", slide, tmp_path)


def test_a_missing_h5py_is_said_as_such(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_trident(tmp_path / "t.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"^reading H5 needs h5py"):
        import_tiles(path, slide, tmp_path)


def test_the_command_says_what_it_made(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wsinfer(tmp_path / "w.csv")
    with pytest.raises(SystemExit) as done:
        main(["import", str(tmp_path / "w.csv"), str(slide), "--tile-size", "128", "-o", str(tmp_path)])
    assert done.value.code == 0
    assert "4 tiles of 128 px at 0.5 µm/px: coordinates only" in capsys.readouterr().out
