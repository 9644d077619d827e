"""Features that other tools have made: written here in their layouts, they become columns of the same tiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support.cli_helpers import wsivit_ as wsivit
from support.small_slides import tissue_picture, write_slide

from wsivit import ImportOptions, TileOptions, TileStore, export, import_features, tile, verify
from wsivit.errors import InputNotFoundError, OutputExistsError, StoreMismatchError, UsageError, WsivitError

h5py = pytest.importorskip("h5py")
# Tiles of 224 px at 0.5 microns per pixel are 448 px of a slide of 0.25: lunit-dino-s16's own.
WIDTH, HEIGHT, SIDE0, DIM, NAME = 1792, 1344, 448, 384, "lunit-dino-s16"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("features") / "s.tiff", tissue_picture(WIDTH, HEIGHT), mpp=0.25)


@pytest.fixture(scope="module")
def tiled(slide: Path) -> Path:
    """A store of all twelve tiles."""
    return Path(tile(slide, slide.parent / "tiled", TileOptions(0.5, 224, min_tissue=0, codec="none")).store.url)


@pytest.fixture
def store(tiled: Path, slide: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(tiled, tmp_path / "s.zarr")
    (tmp_path / "s.tiff").symlink_to(slide)
    return tmp_path / "s.zarr"


def corners() -> np.ndarray:
    """Of all tiles, in an order that is not the store's."""
    x, y = np.meshgrid(np.arange(0, WIDTH, SIDE0), np.arange(0, HEIGHT, SIDE0), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], 1)[::-1].astype(np.int64)


def vectors(xy: Any, dim: int = DIM) -> np.ndarray:
    """Vectors from which the tile can be read: column, row, then noise."""
    made = np.random.default_rng(0).normal(size=(len(xy), dim)).astype(np.float32)
    made[:, :2] = np.asarray(xy) / SIDE0
    return made


Writer = Callable[..., Path]


def trident(folder: Path, xy: Any, values: Any, **changes: Any) -> Path:
    """As TRIDENT's ``extract_patch_features`` writes it: float32, attributes of both data sets."""
    attributes = {
        "name": "s", "savetodir": "elsewhere", "patch_size": 224, "patch_size_level0": SIDE0, "overlap": 0,
        "level0_magnification": 40, "target_magnification": 20, "level0_width": WIDTH, "level0_height": HEIGHT,
    }  # fmt: skip
    with h5py.File(folder / "s.h5", "w") as file:
        file.create_dataset("features", data=values).attrs.update({"name": "s", "savetodir": "elsewhere"})
        file.create_dataset("coords", data=xy).attrs.update(attributes | changes)
    return folder / "s.h5"


def clam(folder: Path, xy: Any, values: Any) -> Path:
    """As CLAM's ``extract_features_fp.py`` writes it: no attributes, int32."""
    with h5py.File(folder / "s.h5", "w") as file:
        file.create_dataset("features", data=np.asarray(values, np.float32))
        file.create_dataset("coords", data=np.asarray(xy, np.int32))
    return folder / "s.h5"


def stamp(folder: Path, xy: Any, values: Any) -> Path:
    """As ``stamp preprocess`` writes it: float16, float32 coordinates in microns, attributes of the file."""
    with h5py.File(folder / "s.h5", "w") as file:
        file["coords"] = (np.asarray(xy) * 0.25).astype(np.float32)
        file["feats"] = np.asarray(values).astype(np.float16)
        file.attrs.update(
            {"stamp_version": "2.4.0", "extractor": "empty", "unit": "um", "tile_size_um": 112.0, "tile_size_px": 224}
        )
        file.attrs.update({"code_hash": "00000000", "feat_type": "tile"})
    return folder / "s.h5"


def slide2vec(folder: Path, xy: Any, values: Any) -> Path:
    """As slide2vec and hs2p write it, in a folder that has been moved since; tiles and vectors in different orders."""
    xy, n = np.asarray(xy, np.int64), len(xy)
    for name in ("tiles", "tile_embeddings"):
        (folder / name).mkdir()
    index, order = np.arange(n, dtype=np.int32), np.random.default_rng(1).permutation(n)
    ones = np.ones(n, np.float32)
    np.savez_compressed(
        folder / "tiles/s.coordinates.npz",
        tile_index=index[order],
        x=xy[order, 0],
        y=xy[order, 1],
        tissue_fractions=ones,
    )
    tiling = {"requested_tile_size_px": 224, "requested_spacing_um": 0.5, "tile_size_lv0": SIDE0, "step_px_lv0": SIDE0}
    document = {"slide": {"dimensions": [WIDTH, HEIGHT]}, "tiling": tiling}
    (folder / "tiles/s.coordinates.meta.json").write_text(json.dumps(document))
    np.savez_compressed(folder / "tile_embeddings/s.npz", features=values, tile_index=index)
    meta = {"coordinates_npz_path": "/elsewhere/tiles/s.coordinates.npz", "encoder_name": "lunit-dino"}
    (folder / "tile_embeddings/s.meta.json").write_text(json.dumps(meta))
    return folder / "tile_embeddings/s.npz"


def raw2features(folder: Path, xy: Any, values: Any) -> Path:
    """As raw2features' format 0.1 has it: zarr v2, one grid, an array for each model."""
    root = zarr.open_group(folder / "s.embeddings.zarr", mode="w", zarr_format=2)
    grid = root.require_group("grids/mpp0.5_px224")
    patching = {"patch_px": 224, "level0_patch": SIDE0, "level0_step": SIDE0, "target_mpp": 0.5}
    models = {"lunit_dino": {"embedding_dim": DIM, "weights_sha256": "a19e"}}
    source = {"mpp_level0": 0.25, "level_dimensions": [[WIDTH, HEIGHT]]}
    grid.attrs["raw2features"] = {"schema_version": "0.1", "patching": patching, "models": models, "source": source}
    grid.create_array("coords", data=np.asarray(xy, np.int32))
    grid.create_array("features/lunit_dino", data=np.asarray(values, np.float16))
    grid.create_array("features/uni", data=np.zeros((len(xy), 1024), np.float16))
    return folder / "s.embeddings.zarr"


FORMS = {"TRIDENT H5": trident, "CLAM H5": clam, "STAMP H5": stamp, "slide2vec npz": slide2vec}
FORMS["raw2features zarr"] = raw2features
SAID = {"CLAM H5": ImportOptions(tile_size=224, mpp=0.5)}


def check(store: TileStore) -> None:
    held = store.features(NAME).values
    assert held.dtype == np.float16 and held.shape == (len(store), DIM)
    np.testing.assert_array_equal(held[:, 0], store.col)
    np.testing.assert_array_equal(held[:, 1], store.row)


@pytest.mark.parametrize("form", FORMS)
def test_vectors_go_to_the_tiles_at_their_coordinates(form: str, store: Path, tmp_path: Path) -> None:
    file = FORMS[form](tmp_path, corners(), vectors(corners()))
    made = import_features(file, store, "Lunit DINO")
    check(made)
    attrs = made.features(NAME).attrs
    assert attrs["imported"]["form"] == form and attrs["pooling"] == "cls" and attrs["mismatch"] == []
    assert attrs.get("weights_sha256") == ({"lunit_dino": "a19e"} if form == "raw2features zarr" else None)


@pytest.mark.parametrize("form", FORMS)
def test_a_store_is_made_of_the_files_tiles(form: str, slide: Path, tmp_path: Path) -> None:
    some = corners()[[0, 3, 7]]
    file = FORMS[form](tmp_path, some, vectors(some))
    made = import_features(file, slide, NAME, output=tmp_path / "out", options=SAID.get(form, ImportOptions()))
    assert len(made) == 3 and made.parameters.mpp == pytest.approx((0.5, 0.5)) and made.grid.tile_size == 224
    check(made)


def test_stamps_sides_are_rounded_up(tmp_path: Path) -> None:
    """At 0.2528 microns per pixel STAMP's 256 microns are 1012.66 px, and it steps by 1013."""
    slide = write_slide(tmp_path / "o.tiff", tissue_picture(1792, 1344), mpp=0.2528)
    xy = np.array([[0, 0], [1013, 1013]]) * 0.2528
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file["coords"], file["feats"] = xy.astype(np.float32), vectors(xy)[:, :DIM].astype(np.float16)
        file.attrs.update({"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224})
    with pytest.raises(StoreMismatchError, match=r"scale: the model is for 0\.5 microns per pixel, the file has 1\.1"):
        import_features(tmp_path / "o.h5", slide, NAME, output=tmp_path)
    assert not (tmp_path / "o.zarr").exists()
    made = import_features(tmp_path / "o.h5", slide, NAME, output=tmp_path, allow_mismatch=True)
    assert made.x0.tolist() == [0, 1013] and "scale" in made.features(NAME).attrs["mismatch"][0]


def test_all_slides_of_a_tool_have_one_fingerprint_which_is_not_wsivits(store: Path, tmp_path: Path) -> None:
    from wsivit.models import encoder

    marks = set()
    for number, form in enumerate((trident, trident, stamp)):
        made = import_features(form(tmp_path, corners(), vectors(corners()) + number), store, NAME, force=True)
        marks.add(made.features(NAME).attrs["model_fingerprint"])
    assert len(marks) == 2 and encoder(NAME).fingerprint(encoder(NAME).sha256) not in marks


def test_again_it_does_nothing_and_others_are_refused(store: Path, tmp_path: Path) -> None:
    file = trident(tmp_path, corners(), vectors(corners()))
    import_features(file, store, NAME)
    written = (store / "features" / NAME / "zarr.json").stat().st_mtime_ns
    import_features(file, store, NAME)
    assert (store / "features" / NAME / "zarr.json").stat().st_mtime_ns == written
    trident(tmp_path, corners(), -vectors(corners()))
    with pytest.raises(OutputExistsError, match="other features 'lunit-dino-s16'; replace them with --force"):
        import_features(file, store, NAME)
    assert import_features(file, store, NAME, force=True).features(NAME).values[0, 0] == 0


def broken(change: str) -> Any:
    values = vectors(corners())
    if change == "nan":
        values[3, 7] = np.nan
    elif change == "constant":
        values[:] = values[0]
    elif change == "zeros":
        values[5] = 0
    elif change == "large":
        values[0, 0] = 1e6
    elif change == "integers":
        values = values.astype(np.int64)
    return values


ALL = corners()
WRONG: dict[str, tuple[Any, Any, dict[str, Any], type[WsivitError], str]] = {
    "nan": (ALL, broken("nan"), {}, UsageError, "NaN or infinity in 1 of 12 vectors, the first in row 3"),
    "constant": (ALL, broken("constant"), {}, UsageError, "all 12 vectors are alike"),
    "zeros": (ALL, broken("zeros"), {}, UsageError, "1 of 12 vectors are one number throughout"),
    "large": (ALL, broken("large"), {}, UsageError, "more than half precision holds"),
    "integers": (ALL, broken("integers"), {}, UsageError, "features are int64"),
    "dimension": (ALL, vectors(ALL, 512), {}, UsageError, "vectors of 512 numbers; lunit-dino-s16 has 384"),
    "pooling": (ALL, vectors(ALL, 768), {}, UsageError, "with pooling cls.mean it has as many: --pooling cls.mean"),
    "length": (ALL, vectors(ALL[1:]), {}, UsageError, "features are .11, 384. for 12 tiles"),
    "moved": (ALL + 100, vectors(ALL), {}, StoreMismatchError, "12 of 12 vectors are of tiles that it does not have"),
    "missing": (ALL[1:], vectors(ALL[1:]), {}, StoreMismatchError, "1 of its 12 tiles have no vector in the file"),
    "twice": (ALL[[0, *range(12)]], vectors(ALL[[0, *range(12)]]), {}, StoreMismatchError, "of a tile that has one"),
    "slide": (ALL, vectors(ALL), {"level0_width": 9}, StoreMismatchError, "of a slide of .9, 1344., not .1792, 1344."),
    "side": (ALL, vectors(ALL), {"patch_size_level0": 512}, StoreMismatchError, "cover 512 pixels .* the store's 448"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_and_nothing_written(what: str, store: Path, tmp_path: Path) -> None:
    xy, values, changes, error, says = WRONG[what]
    file = trident(tmp_path, xy, values, **changes)
    with pytest.raises(error, match=says) as raised:
        import_features(file, store, NAME)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)
    assert TileStore(store).encoders == [] and not (store / "features").exists()


def test_features_of_another_encoder_are_refused(store: Path, tmp_path: Path) -> None:
    file = slide2vec(tmp_path, corners(), vectors(corners()))
    with pytest.raises(UsageError, match="its features are of lunit-dino, not of lunit-dino-s8"):
        import_features(file, store, "lunit-dino-s8")
    with pytest.raises(UsageError, match="unknown encoder 'lunit-dina'; the nearest are"):
        import_features(file, store, "lunit-dina")


def test_files_and_stores_that_are_not_there(store: Path, slide: Path, tmp_path: Path) -> None:
    file = trident(tmp_path, corners(), vectors(corners()))
    with pytest.raises(InputNotFoundError, match="no tile store there; give the slide in its place"):
        import_features(file, tmp_path / "other.zarr", NAME)
    with pytest.raises(InputNotFoundError, match=r"none\.h5 is not there"):
        import_features(tmp_path / "none.h5", store, NAME)
    (tmp_path / "s.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a \.pt is a pickle, .* give the \.h5 next to it"):
        import_features(tmp_path / "s.pt", store, NAME)
    with pytest.raises(UsageError, match="does not say how large its tiles are"):
        import_features(clam(tmp_path, ALL, vectors(ALL)), slide, NAME, output=tmp_path / "out")


def test_tiles_off_the_lattice_are_moved_on_request(store: Path, tmp_path: Path) -> None:
    file = clam(tmp_path, corners() + 90, vectors(corners()))
    with pytest.raises(StoreMismatchError, match=r"up to 90 pixels away from its own.*--snap"):
        import_features(file, store, NAME)
    made = import_features(file, store, NAME, options=ImportOptions(snap=True))
    check(made)
    assert made.features(NAME).attrs["imported"]["snapped"] == 12


@pytest.mark.parametrize(("format", "name"), [("h5", "b.h5"), ("stamp", "b.h5"), ("parquet", "b.parquet")])
def test_what_is_exported_comes_back(format: Any, name: str, store: Path, slide: Path, tmp_path: Path) -> None:
    before = import_features(trident(tmp_path, corners(), vectors(corners())), store, NAME)
    export(store, format, tmp_path / name)
    after = import_features(tmp_path / name, slide, NAME, output=tmp_path / "again")
    check(after)
    np.testing.assert_array_equal(after.features(NAME).values, before.features(NAME).values)
    marks = [each.features(NAME).attrs["model_fingerprint"] for each in (before, after)]
    assert marks[0] == marks[1]  # it is not another tool's


def test_the_command_imports(store: Path, tmp_path: Path) -> None:
    file = trident(tmp_path, corners(), vectors(corners()))
    done = wsivit("import", str(file), str(store), "--encoder", NAME)
    assert done.returncode == 0 and "12 vectors of lunit-dino-s16 from TRIDENT H5" in done.stdout, done.stderr
    refused = wsivit("import", str(file), str(store), "--encoder", "virchow2")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "virchow2 has 2560" in refused.stderr


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_half_written(
    existing: bool, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever write fails, readers see no column or the old one, and a later run completes it."""
    from wsivit.io import LocalFiles

    file = trident(tmp_path, corners(), vectors(corners()))
    if existing:
        import_features(trident(tmp_path, corners(), -vectors(corners())), store, NAME)
        trident(tmp_path, corners(), vectors(corners()))
    write, full = LocalFiles.write, OSError(28, "No space left on device")
    for allowed in range(20):
        left = iter(range(allowed))

        def limited(self: LocalFiles, key: str, parts: Any, left: Any = left) -> None:
            if next(left, None) is None:
                raise full
            write(self, key, parts)

        monkeypatch.setattr(LocalFiles, "write", limited)
        try:
            import_features(file, store, NAME, force=True)
            break
        except OSError as error:
            assert error.errno == 28
            monkeypatch.undo()
            before = TileStore(store)
            assert before.encoders == ([NAME] if existing else [])
            assert not existing or before.features(NAME).values[:, 0].max() <= 0
            assert verify(store) == []
    else:
        raise AssertionError("it never had enough space")
    assert allowed > 1
    monkeypatch.undo()
    check(TileStore(store))
