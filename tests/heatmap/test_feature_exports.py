"""Features in the forms of other tools, read back by those tools' own means; where outputs go; what is marked."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image
from support.heatmap_helpers import make_store

from wsivit.errors import OutputExistsError, StoreError, UsageError
from wsivit.heatmap import HeatmapOptions, aggregate, export, heatmap, read_heatmap_data
from wsivit.store import TileStore

h5py = pytest.importorskip("h5py")
MISSING = (1, 4)
"""Tile 1 cannot be read, tile 4 was not encoded."""


def with_features(path: Path, *names: str, dim: int = 3) -> tuple[TileStore, NDArray[np.float16]]:
    """A store with features of each encoder: those of the second are the first's and one more, and so on."""
    store = make_store(path, unreadable=[MISSING[0]])
    features = (np.arange(len(store) * dim) % 2000).astype(np.float16).reshape(-1, dim)
    features[list(MISSING)] = np.nan
    for more, name in enumerate(names):
        with store.features_writer(name, (dim,), {"model_fingerprint": f"sha256:{name}"}) as writer:
            for block in writer.pending():
                writer.write(block, features[block.start : block.stop] + np.float16(more))
            writer.finish()
    store.write_labels("region", np.arange(len(store)) % 3 - 1, ("stroma", "tumor"))
    return TileStore(store.path), np.delete(features, MISSING, axis=0)


def test_h5_is_what_trident_and_clam_write(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "uni")
    path = export(store, "h5")
    assert path == tmp_path / "uni" / "S.h5"  # the tools look for <slide>.h5 in a folder for each encoder
    with h5py.File(path) as file:
        assert set(file) == {"coords", "features"}
        assert file["features"].dtype == np.float16 and file["coords"].dtype == np.int64
        np.testing.assert_array_equal(file["features"][...], features)
        np.testing.assert_array_equal(file["coords"][:, 1], np.delete(store.y0, MISSING))
        about, coords = dict(file["features"].attrs), dict(file["coords"].attrs)
    assert about == {"name": "S", "savetodir": ".", "encoder": "uni", "encoder_fingerprint": "sha256:uni"}
    assert coords["name"] == "S" and coords["savetodir"] == "." and coords["overlap"] == 0
    assert (coords["patch_size"], coords["patch_size_level0"]) == (128, 256)
    magnifications = coords["level0_magnification"], coords["target_magnification"]
    assert magnifications == (40, 20) and all(isinstance(m, np.integer) for m in magnifications)
    assert "patch_level" not in coords  # resampled: CLAM could not read it from a level
    with h5py.File(export(make_store(tmp_path / "native.zarr", downsample=1.0), "h5")) as file:
        coords = dict(file["coords"].attrs)
    assert (coords["patch_level"], coords["patch_size"], tuple(coords["level_dim"])) == (0, 128, (4096, 3072))
    assert tuple(coords["downsample"]) == (1, 1)


def test_h5_holds_a_run_that_is_named(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "uni")
    path = export(store, "h5", run="run-1")
    assert path == tmp_path / "uni" / "S-run-1.h5"
    with h5py.File(path) as file:
        expected = np.delete(store.predictions("run-1").probabilities, MISSING, axis=0)
        np.testing.assert_array_equal(file["probabilities"][...], expected)
        assert len(file["features"]) == len(features)
        assert list(file["probabilities"].attrs["classes"]) == ["normal", "tumor"]


def test_stamp_has_microns(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "uni")
    with h5py.File(export(store, "stamp")) as file:
        assert set(file) == {"coords", "feats"}
        np.testing.assert_array_equal(file["feats"][...], features)
        assert file["feats"].dtype == np.float16 and file["coords"].dtype == np.float32
        np.testing.assert_allclose(file["coords"][:, 0], np.delete(store.x0, MISSING) * 0.25)
        attributes = dict(file.attrs)
    # STAMP infers microns from either of these, and pixels for its heatmaps.
    assert (attributes["unit"], attributes["tile_size_um"], attributes["tile_size_px"]) == ("um", 64.0, 128)
    assert attributes["extractor"] == "uni" and attributes["feat_type"] == "tile"
    assert "stamp_version" not in attributes  # STAMP refuses files of a version newer than its own


def test_torch_loads_the_tensor_by_its_safe_reader(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "uni")
    path = export(store, "pt")
    tensor = torch.load(path, weights_only=True)
    assert tensor.dtype == torch.float32 and tensor.is_contiguous() and not tensor.requires_grad
    np.testing.assert_array_equal(tensor.numpy(), features.astype(np.float32))
    assert torch.load(path, weights_only=True, mmap=True).shape == features.shape
    first = path.read_bytes()
    assert export(store, "pt").read_bytes() == first


def test_torch_loads_more_rows_than_fit_a_byte(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "wide", dim=400)
    tensor = torch.load(export(store, "pt"), weights_only=True)
    np.testing.assert_array_equal(tensor.numpy(), features.astype(np.float32))


def test_parquet_is_a_table_of_tiles(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "uni")
    table = pq.read_table(export(store, "parquet", run="run-1"))
    frame = table.to_pandas()
    np.testing.assert_array_equal(np.stack(frame["features"]), features.astype(np.float32))
    assert frame["x0"].tolist() == np.delete(store.x0, MISSING).tolist()
    assert frame["label_region"].isna().sum() == (np.delete(store.label("region").codes, MISSING) == -1).sum()
    assert set(frame["label_region"].dropna()) == {"stroma", "tumor"}
    assert frame["prob_tumor"].iloc[0] == pytest.approx(0.9)
    about = json.loads(table.schema.metadata[b"wsivit"])
    assert (about["encoder"], about["tile_size"], about["run"]) == ("uni", 128, "run-1")


def test_h5ad_follows_the_format(tmp_path: Path) -> None:
    store, features = with_features(tmp_path / "S.zarr", "uni")
    path = export(store, "h5ad")
    with h5py.File(path) as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        for name in ("X", "obs", "var", "obsm", "layers", "obsp", "varm", "varp", "uns"):
            assert {"encoding-type", "encoding-version"} <= set(file[name].attrs)
        np.testing.assert_array_equal(file["X"][...], features.astype(np.float32))
        np.testing.assert_array_equal(file["obsm/spatial"][:, 0], np.delete(store.x0, MISSING))
        assert file["obs/_index"][0] == b"S_0_0" and len(file["var/_index"]) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .future:Warning")
def test_anndata_opens_it(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    store, features = with_features(tmp_path / "S.zarr", "uni")
    data = anndata.read_h5ad(export(store, "h5ad"))
    np.testing.assert_array_equal(data.X, features.astype(np.float32))
    assert data.obs["label_region"].cat.categories.tolist() == ["stroma", "tumor"]
    assert data.obs["label_region"].isna().any()
    assert data.uns["wsivit"]["encoder"] == "uni" and data.obsm["spatial"].shape == (len(features), 2)


def test_one_encoder_must_be_chosen_of_several(tmp_path: Path) -> None:
    store, _ = with_features(tmp_path / "S.zarr", "resnet", "vit")
    with pytest.raises(UsageError, match=r"several encoders; choose one of resnet, vit \(--encoder\)"):
        export(store, "h5")
    with pytest.raises(UsageError, match="no features 'uni'; it has resnet, vit"):
        export(store, "h5", encoder="uni")
    folder = tmp_path / "not there yet"
    paths = [export(store, "pt", folder, encoder=name) for name in ("resnet", "vit")]
    assert paths == [folder / "resnet" / "S.pt", folder / "vit" / "S.pt"]
    one, two = (torch.load(path, weights_only=True) for path in paths)
    assert (two - one).unique().tolist() == [1]


def test_features_that_other_tools_cannot_take(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr")
    with pytest.raises(UsageError, match="no features in this store; make some: wsivit features"):
        export(store, "stamp", run="run-1")
    group = zarr.open_group(store.path, mode="r+").require_group("features")
    group.create_array("short", data=np.ones((5, 3), np.float16))
    group.create_array("tokens", data=np.ones((len(store), 2, 3), np.float16))
    group.create_array("none", data=np.full((len(store), 3), np.nan, np.float16))
    store = TileStore(store.path)
    with pytest.raises(StoreError, match="for 192 tiles"):
        export(store, "h5", encoder="short")
    with pytest.raises(UsageError, match="every token"):
        export(store, "h5", encoder="tokens")
    with pytest.raises(StoreError, match="no features for any of 192 tiles"):
        export(store, "h5", encoder="none")


# Where outputs go


def test_an_output_without_the_forms_suffix_is_a_folder(tmp_path: Path) -> None:
    """Several slides into a folder that does not exist yet are several files."""
    folder = tmp_path / "new.folder"
    stores = [with_features(tmp_path / f"{name}.zarr", "uni")[0] for name in "AB"]
    assert [export(store, "h5", folder) for store in stores] == [folder / "uni" / "A.h5", folder / "uni" / "B.h5"]
    assert [export(store, "csv", f"{folder}/") for store in stores] == [folder / f"{s}-run-1.csv" for s in "AB"]
    assert export(stores[0], "csv", tmp_path / "x.CSV") == tmp_path / "x.CSV"
    for name, format in (("a.txt", "csv"), ("a.csv", "h5"), ("a.pdf", "png"), ("a.h5", "pt")):
        with pytest.raises(UsageError, match=rf"{name}: {format} is written as \..*; name such a file, or a folder"):
            export(stores[0], format, tmp_path / name)  # type: ignore[arg-type]
        assert not (tmp_path / name).exists()
    with pytest.raises(OutputExistsError, match="is a folder"):
        export(stores[0], "h5", stores[1].path)


# What is marked


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    """A store of which the model learned the first 48 of 192 tiles, and whose scale is not the model's."""
    store = make_store(tmp_path_factory.mktemp("marked") / "S.zarr")
    attrs = {"trained_on": [[0, 40], [44, 52]], "mismatch": ["scale: 0.5 there, 0.25 here"]}
    store.write_predictions("run-1", replace(store.predictions("run-1"), attrs=attrs))
    return TileStore(store.path)


def test_every_form_says_what_the_model_learned_from(marked: TileStore, tmp_path: Path) -> None:
    data = read_heatmap_data(marked)
    assert data.training.share == 0.25 and data.trained_cells.sum() == 48
    outputs = heatmap(marked, output=tmp_path, formats=["png", "geojson", "ome-tiff", "ome-zarr", "h5"], size=300)
    with Image.open(outputs.png) as image:
        records = [json.loads(image.text["wsivit"])]
    records.append(json.loads(Path(outputs.files["geojson"]).read_text())["wsivit"])
    with tifffile.TiffFile(outputs.files["ome-tiff"]) as tiff:
        records.append(json.loads(tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Description"]))
    records.append(dict(zarr.open_group(outputs.files["ome-zarr"], mode="r").attrs["wsivit"]))
    with h5py.File(outputs.files["h5"]) as file:
        records.append(dict(file["probabilities"].attrs))
    with aggregate([marked], tmp_path / "scores.csv").open() as file:
        assert {(row["trained_on_slide"], row["trained_on_share"]) for row in csv.DictReader(file)} == {
            ("True", "0.25")
        }
    for record in records:
        assert record["trained_on_share"] == 0.25
        assert list(record["mismatch"]) == ["scale: 0.5 there, 0.25 here"]


def test_the_picture_says_it_in_words_and_hatches_on_request(
    marked: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("matplotlib.figure.Figure.text", lambda self, x, y, text, **_: said.append(text))
    options = HeatmapOptions(size=512, alpha=1, interpolation="nearest")
    plain = heatmap(marked, png=tmp_path / "a.png", formats=[], options=options).png
    assert said[0] == "S" and said[1].startswith("probability of tumor")
    assert "Caution: the model learned from 25 % of these tiles" in said
    assert "Caution: mismatch allowed: scale: 0.5 there, 0.25 here" in said
    lined = heatmap(marked, png=tmp_path / "b.png", formats=[], options=replace(options, hatch_trained=True)).png
    with Image.open(plain) as one, Image.open(lined) as two:
        frame = json.loads(one.text["wsivit"])
        changed = (np.asarray(one) != np.asarray(two)).any(axis=2)
    top, left = frame["top"], frame["left"]
    tiles = changed[top : top + 384, left : left + 512].reshape(12, 32, 16, 32).any(axis=(1, 3)).ravel()
    np.testing.assert_array_equal(tiles, data_tiles(192, [(0, 40), (44, 52)]))


def data_tiles(count: int, ranges: list[tuple[int, int]]) -> NDArray[np.bool_]:
    tiles = np.zeros(count, bool)
    for start, stop in ranges:
        tiles[start:stop] = True
    return tiles


def test_a_slide_of_which_only_that_it_was_learned_from_is_known(marked: TileStore, tmp_path: Path) -> None:
    store = TileStore(shutil.copytree(marked.path, tmp_path / "S.zarr"))
    store.write_predictions("run-1", replace(store.predictions("run-1"), attrs={"trained_on": None}))
    training = read_heatmap_data(TileStore(store.path)).training
    assert training.share is None and training.warnings == ("the model learned from tiles of this slide",)


def test_unscored_tissue_has_a_key_and_classes_that_do_not_occur_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "S.zarr", classes=tuple(f"class {k}" for k in range(1000)))
    found = store.predictions("run-1")
    probabilities = np.zeros_like(found.probabilities)
    probabilities[np.arange(192), np.arange(192) % 3 * 100] = 1
    probabilities[30:60] = np.nan
    store.write_predictions("run-1", replace(found, probabilities=probabilities))
    said: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda self, x, y, text, **_: said.append(text))
    export(TileStore(store.path), "png", size=400)
    names = [text for text in said if text.startswith("class ")]
    assert sorted(names) == ["class 0", "class 100", "class 200"] and "not scored" in said
    colors = read_heatmap_data(TileStore(store.path)).class_colors
    assert len(set(colors[:40])) == 40
