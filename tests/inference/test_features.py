"""Features of named encoders: the vectors, their identity, several at once, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support.cli_helpers import wsivit_ as wsivit
from support.encoders import draw
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import write_store
from torchvision import transforms  # type: ignore[import-untyped]

from wsivit import TileOptions, open_slide, tile
from wsivit.errors import OutputExistsError, ScaleError, StoreMismatchError, UsageError
from wsivit.inference import FeaturesOptions, ModelRunner, features
from wsivit.models import encoder
from wsivit.store import TileStore

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lunit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """lunit-dino-s16, with random weights in the form of its repository."""
    network = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    draw(network)
    folder = tmp_path_factory.mktemp("vit_small_patch16_224.lunit_dino")
    save_file(network.state_dict(), folder / "model.safetensors")
    return network, folder


def options(folder: Path, **changes: Any) -> FeaturesOptions:
    return FeaturesOptions(weights=str(folder), allow_other_weights=True, device="cpu", batch_size=4, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path, "s", columns=3, rows=2, size=224, unreadable=(1,)).path


def test_vectors_are_the_cards(lunit: tuple[Any, Path], store: Path) -> None:
    network, folder = lunit
    made = features(store, "Lunit_DINO_s16", options=options(folder)).features("lunit-dino-s16")
    half = (0.5, 0.5, 0.5)
    card = transforms.Compose([transforms.ToTensor(), transforms.Normalize(half, half)])
    tiles = TileStore(store)
    readable = tiles.readable
    with torch.inference_mode():
        theirs = network(torch.stack([card(Image.fromarray(tiles[i])) for i in readable.tolist()])).numpy()
    assert made.values.dtype == np.float16 and made.values.shape == (6, 384)
    assert np.isnan(made.values[1]).all()
    np.testing.assert_allclose(made.values[readable], theirs, rtol=2e-3, atol=2e-3)
    assert made.attrs["pooling"] == "cls" and made.attrs["model"] == "lunit-dino-s16"
    assert made.attrs["model_fingerprint"].startswith("sha256:")


def test_another_pooling_has_another_name(lunit: tuple[Any, Path], store: Path) -> None:
    folder = lunit[1]
    features(store, "lunit-dino-s16", options=options(folder))
    both = features(store, "lunit-dino-s16", options=options(folder, pooling="cls+mean"))
    assert both.encoders == ["lunit-dino-s16", "lunit-dino-s16-cls-mean"]
    pair = both.features("lunit-dino-s16-cls-mean").values
    np.testing.assert_array_equal(pair[:, :384], both.features("lunit-dino-s16").values)
    marks = {both.features(name).attrs["model_fingerprint"] for name in both.encoders}
    assert len(marks) == 2
    dense = features(store, "lunit-dino-s16", options=options(folder, pooling="tokens"))
    tokens = dense.features("lunit-dino-s16-tokens").values
    assert tokens.shape == (6, 196, 384)
    np.testing.assert_allclose(tokens[0].astype(float).mean(0), pair[0, 384:], atol=5e-3)


def test_other_weights_under_one_name_are_refused(lunit: tuple[Any, Path], store: Path, tmp_path: Path) -> None:
    network, folder = lunit
    features(store, "lunit-dino-s16", options=options(folder))
    changed = {name: value * 1.01 for name, value in network.state_dict().items()}
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(OutputExistsError, match=r"of other weights, another input, pooling or pixels; .*--force"):
        features(store, "lunit-dino-s16", options=options(tmp_path / "other.safetensors"))
    before = TileStore(store).features("lunit-dino-s16")
    after = features(store, "lunit-dino-s16", options=options(tmp_path / "other.safetensors"), force=True)
    assert after.features("lunit-dino-s16").attrs["model_fingerprint"] != before.attrs["model_fingerprint"]


def test_several_encoders_read_each_tile_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local networks, which need no registry; their vectors are those of one at a time."""
    names = []
    for seed, kind in enumerate(("vit_tiny_patch16_224", "resnet18")):
        torch.manual_seed(seed)
        network = timm.create_model(kind, num_classes=3)
        folder = tmp_path / kind
        folder.mkdir()
        save_file(network.state_dict(), folder / "model.safetensors")
        config = {"architecture": kind, "num_classes": 3, "pretrained_cfg": {"input_size": [3, 224, 224]}}
        (folder / "config.json").write_text(json.dumps(config))
        names.append(str(folder))
    plain = FeaturesOptions(device="cpu", batch_size=2, mpp=0.5, tile_size=224)
    stores = [write_store(tmp_path / kind, "s", columns=3, rows=2, size=224).path for kind in ("a", "b")]
    alone = [features(one, name, options=plain) for one, name in zip(stores, names, strict=True)]
    wanted = [one.features(one.encoders[0]).values for one in alone]
    reads: list[int] = []
    read = TileStore.read

    def counted(self: TileStore, tiles: Any, *args: Any, **kwargs: Any) -> Any:
        reads.extend(np.atleast_1d(tiles).tolist())
        return read(self, tiles, *args, **kwargs)

    together = write_store(tmp_path / "both", "s", columns=3, rows=2, size=224).path
    monkeypatch.setattr(TileStore, "read", counted)
    made = features(together, names, options=plain)
    assert sorted(reads) == list(range(6))
    for name, values in zip(("vit_tiny_patch16_224", "resnet18"), wanted, strict=True):
        np.testing.assert_array_equal(made.features(name).values, values)


def test_stores_of_other_tiles_are_refused(lunit: tuple[Any, Path], tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=2, rows=2, size=64).path
    with pytest.raises(StoreMismatchError, match="tile size: the model is for 224 px, the store has 64"):
        features(store, "lunit-dino-s16", options=options(lunit[1]))
    allowed = features(store, "lunit-dino-s16", options=options(lunit[1], allow_mismatch=True))
    assert "tile size" in allowed.features("lunit-dino-s16").attrs["mismatch"][0]


def test_what_the_encoder_needs_is_read_from_the_slide(lunit: tuple[Any, Path], tmp_path: Path) -> None:
    """Tiles of 128 px at 1 micron: the encoder sees 224 px at 0.5 around the middle of each, as torchvision would."""
    network, folder = lunit
    picture = tissue_picture(768, 700)
    slide = write_slide(tmp_path / "s.tiff", picture, mpp=0.5)
    store = tile(slide, tmp_path, TileOptions(mpp=1.0, tile_size=128, min_tissue=0, codec="none")).store
    with pytest.raises(StoreMismatchError, match=r"scale: .* has 1; tile size: .* has 128.*--resample"):
        features(store, "lunit-dino-s16", options=options(folder))
    made = features(store, "lunit-dino-s16", options=options(folder, resample=True)).features("lunit-dino-s16")
    inside = [i for i in range(len(store)) if store.col[i] == store.row[i] == 1]
    card = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    places = [(256 * int(store.col[i]) + 128 - 112, 256 * int(store.row[i]) + 128 - 112) for i in inside]
    with open_slide(slide) as opened, torch.inference_mode():
        plan = opened.plan(0.5)
        seen = [card(Image.fromarray(opened.read(plan, x, y, 224, 224))) for x, y in places]
        theirs = network(torch.stack(seen)).numpy()
    np.testing.assert_allclose(made.values[inside], theirs, rtol=2e-3, atol=2e-3)
    assert made.attrs["resampled"] == [0.5, 224] and made.attrs["mismatch"] == []
    features(store, "lunit-dino-s16", options=options(folder, resample=True))  # which is there
    with pytest.raises(OutputExistsError, match="pooling or pixels"):
        features(store, "lunit-dino-s16", options=options(folder, allow_mismatch=True))
    with pytest.raises(ScaleError, match=r"0\.1 microns per pixel is finer than the slide itself"):
        features(store, "lunit-dino-s16", options=options(folder, resample=True, mpp=0.1), force=True)


def test_a_scale_that_is_asked_for_is_taken_and_recorded(lunit: tuple[Any, Path], tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(900, 700), mpp=0.5)
    made = features(slide, "lunit-dino-s16", output=tmp_path, options=options(lunit[1], mpp=1.0, tile_size=224))
    attrs = made.features("lunit-dino-s16").attrs
    assert made.parameters.mpp == (1.0, 1.0)
    assert attrs["mismatch"] == ["scale: the model is for 0.5 microns per pixel, the store has 1"]
    assert attrs["weights"]["registered"] is False and len(attrs["weights"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("encoders", "changes", "says"),
    [
        (["uni", "lunit-dino-s16"], {"weights": "w"}, "weights are of one encoder"),
        ([], {}, "no encoder is given"),
        ("conch", {}, "cannot be run here: it needs code of its own"),
        ("resnet18", {"pooling": "cls"}, "no encoder of the registry"),
        ("uni", {"resample": True, "allow_mismatch": True}, "resample or allow_mismatch"),
    ],
)
def test_wrong_use(encoders: Any, changes: Any, says: str, store: Path) -> None:
    with pytest.raises(UsageError, match=says):
        features(store, encoders, options=FeaturesOptions(**changes))


def test_done_features_load_no_network(lunit: tuple[Any, Path], store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features(store, "lunit-dino-s16", options=options(lunit[1]))
    monkeypatch.setattr(ModelRunner, "__init__", None)
    features(store, "lunit-dino-s16", options=options(lunit[1]))


def test_command_line_and_export(lunit: tuple[Any, Path], store: Path, tmp_path: Path) -> None:
    """The H5 is TRIDENT's: features and coords of one order, float16 and int64, with the attributes that it reads."""
    weights = ("--weights", str(lunit[1]), "--device", "cpu", "-q")
    refused = wsivit("features", str(store), "--encoder", "lunit-dino-s16", *weights)
    assert refused.returncode == 2 and "--allow-other-weights" in refused.stderr and refused.stderr.count("\n") == 1
    done = wsivit("features", str(store), "--encoder", "lunit-dino-s16", *weights, "--allow-other-weights")
    assert done.returncode == 0 and "6 tiles as 384 features each, by lunit-dino-s16" in done.stdout
    exported = wsivit("export", str(store), "h5", "-o", str(tmp_path / "s.h5"))
    assert exported.returncode == 0, exported.stderr
    opened = TileStore(store)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["features"].shape == (5, 384) and file["features"].dtype == np.float16
        assert file["coords"].shape == (5, 2) and file["coords"].dtype == np.int64
        np.testing.assert_array_equal(file["coords"][:, 0], opened.x0[opened.readable])
        assert file["features"].attrs["encoder"] == "lunit-dino-s16"
        assert file["coords"].attrs["patch_size"] == 224


def test_encoders_are_listed_and_shown() -> None:
    listed = wsivit("encoders")
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == 41
    every = json.loads(wsivit("encoders", "--json").stdout)
    assert {each["name"] for each in every} >= {"uni2-h", "virchow2", "h-optimus-1", "phikon-v2"}
    shown = wsivit("encoders", "UNI2_h")
    assert (
        "ask for it at https://huggingface.co/MahmoodLab/UNI2-h" in shown.stdout and "8 register tokens" in shown.stdout
    )
    unknown = wsivit("encoders", "unix")
    assert unknown.returncode == 2 and "unknown encoder 'unix'; the nearest are" in unknown.stderr
    assert encoder("uni2-h").dim == 1536
