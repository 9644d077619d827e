"""Models of every origin, run by every engine: the same tiles give the same numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.train_helpers import CLASSES, make_run, write_store
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTModel

from wsivit.cli.common import CommonOptions
from wsivit.data.augment import view
from wsivit.errors import OutputExistsError, StoreError, StoreMismatchError, UsageError
from wsivit.evaluation.evaluate import EvaluateOptions, evaluate
from wsivit.inference import (
    FeatureExtractor,
    FeaturesOptions,
    ModelRunner,
    PredictOptions,
    Predictor,
    ScoringOptions,
    features,
    predict,
    predict_each,
    softmax,
)
from wsivit.inference.cpu import count_tiles
from wsivit.models import open_model, open_run
from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import save_classifier
from wsivit.models.run_folder import Preprocessing, RunMetadata
from wsivit.models.weights import weights_fingerprint
from wsivit.store import TileStore

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = PredictOptions(batch_size=10, device="cpu")
ENCODING = FeaturesOptions(batch_size=10, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "vit", temperature=1.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), "s", columns=6, rows=4, unreadable=(3, 17)).path


@pytest.fixture(scope="module")
def tiles(store: Path) -> np.ndarray:
    return TileStore(store).read([0, 1, 2, 4, 5])


def scorer_of(run: Path, **options: object) -> ModelRunner:
    return ModelRunner(open_run(run, RunMetadata.read(run)), ScoringOptions(device="cpu", **options))  # type: ignore[arg-type]


def make_cnn(folder: Path) -> Path:
    torch.manual_seed(0)
    made = create_classifier("test_resnet", CLASSES, pretrained=False, image_size=48)
    contract = RunMetadata("test_resnet", CLASSES, "region", 0.5, 48, made.preprocessing, [], {}, {})
    replace(contract, model_fingerprint=save_classifier(made, folder)).write(folder)
    return folder


# Engines


@pytest.mark.parametrize("make", [make_run, make_cnn])
def test_every_engine_says_the_same(make: object, tmp_path: Path, tiles: np.ndarray) -> None:
    run = make(tmp_path / "run")  # type: ignore[operator]
    wanted = scorer_of(run)(tiles)
    assert wanted.shape == (5, 2) and wanted.dtype == np.float32
    pytest.importorskip("onnxruntime")
    by_onnx = scorer_of(run, engine="onnx")
    np.testing.assert_allclose(by_onnx(tiles), wanted, atol=1e-5)
    np.testing.assert_allclose(by_onnx(tiles[:1]), wanted[:1], atol=1e-5)
    np.testing.assert_allclose(scorer_of(run, precision="bf16")(tiles), wanted, atol=0.1)


def test_a_cnn_keeps_channels_last_and_a_vit_does_not(tmp_path: Path, run: Path) -> None:
    network = scorer_of(make_cnn(tmp_path / "cnn"))._network
    weight = next(m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)).weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not scorer_of(run)._network.convolves


def test_compiled_it_says_the_same_and_sees_one_shape_only(
    run: Path, tiles: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def compiled(network: nn.Module) -> object:
        return lambda pictures: (seen.append(len(pictures)), network(pictures))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    made = scorer_of(run, compile=True, batch_size=4)
    together = np.concatenate([made(tiles[:4]), made(tiles[4:])])
    np.testing.assert_allclose(together, scorer_of(run)(tiles), atol=1e-6)
    assert seen == [4, 4]


def test_int8_only_on_request_and_with_its_agreement(
    run: Path, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    from wsivit.cli.models import predict as command

    options = replace(CPU, engine="onnx-int8")
    report = command(str(run), [str(store)], name="int8", options=options, common=CommonOptions(quiet=True))
    agreement = TileStore(store).predictions("int8").attrs["agreement"]
    assert agreement["tiles"] == 22 and 0 < agreement["largest_difference"] < 0.05
    assert f"agrees with fp32 on the class of {100 * agreement['same_class']:.1f} % of 22 tiles" in report.text
    exact = predict(run, store, name="exact", options=CPU).predictions("exact").probabilities
    found = TileStore(store).predictions("int8").probabilities
    # The scale of 8 bits is that of the batch, so that a tile's number depends a little on its company.
    assert np.nanmax(np.abs(found - exact)) < 4 * agreement["largest_difference"]
    with pytest.raises(OutputExistsError, match="made in another way"):
        predict(run, store, name="int8", options=CPU)


def test_engines_that_cannot_be_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="device 'cuda:7' cannot be used here"):
        scorer_of_device(run, "cuda:7")
    with pytest.raises(UsageError, match="cannot be used here"):
        scorer_of_device(run, "gpu")
    with pytest.raises(UsageError, match="runs on the CPU"):
        scorer_of_device(run, "cuda", engine="onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install \"wsivit\[onnx\]\""):
        scorer_of(run, engine="onnx")
    for wrong in ({"precision": "fp8"}, {"engine": "tpu"}, {"engine": "onnx", "compile": True}):
        with pytest.raises(UsageError):
            PredictOptions(**wrong)  # type: ignore[arg-type]


def scorer_of_device(run: Path, device: str, **options: object) -> ModelRunner:
    return ModelRunner(open_run(run, RunMetadata.read(run)), ScoringOptions(device=device, **options))  # type: ignore[arg-type]


# Side by side on the cores of a CPU


@pytest.fixture
def four_threads() -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("make", [make_run, make_cnn])
@pytest.mark.parametrize("more", [{}, {"tta": True}])
def test_batches_side_by_side_give_the_very_numbers(
    make: object, more: dict[str, object], tmp_path: Path, tiles: np.ndarray
) -> None:
    run = make(tmp_path / "run")  # type: ignore[operator]
    made = scorer_of(run, batch_size=32, **more)
    assert (made.streams, made.step) == (4, 8)
    many = np.concatenate([np.roll(tiles, k, axis=2) for k in range(13)])
    found = list(made.run(range(0, 65, 8), lambda k: (k, many[k : k + 8])))
    assert [k for k, _ in found] == [*range(0, 65, 8)]
    torch.set_num_threads(1)
    for k, part in found:
        np.testing.assert_array_equal(part, made(many[k : k + 8]))


@pytest.mark.usefixtures("four_threads")
def test_side_by_side_unreadable_tiles_are_left_out_and_torch_keeps_its_threads(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=10, rows=6, unreadable=(3, 17))
    found = predict(run, store.path, options=replace(CPU, batch_size=32)).predictions("vit")
    assert np.flatnonzero(np.isnan(found.probabilities).any(axis=1)).tolist() == [3, 17]
    assert found.logits is not None
    np.testing.assert_allclose(found.logits[store.readable], scorer_of(run)(store.read(store.readable)), atol=1e-6)
    with ThreadPoolExecutor(1) as another:
        assert torch.get_num_threads() == another.submit(torch.get_num_threads).result() == 4


@pytest.mark.usefixtures("four_threads")
def test_an_error_side_by_side_ends_it_at_once(run: Path, tiles: np.ndarray) -> None:
    scorer, read = scorer_of(run, batch_size=32), []

    def read_until(k: int) -> tuple[int, np.ndarray]:
        read.append(k)
        if k == 5:
            raise StoreError("damaged")
        return k, tiles

    with pytest.raises(StoreError, match="damaged"), closing(scorer.run(range(1000), read_until)) as scored:
        for _ in scored:
            pass
    assert len(read) < 30
    with ThreadPoolExecutor(1) as another:
        assert torch.get_num_threads() == another.submit(torch.get_num_threads).result() == 4


@pytest.mark.usefixtures("four_threads")
def test_streams_have_tiles_enough_and_a_compiled_model_has_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [scorer_of(run, batch_size=size).streams for size in (1, 15, 16, 64)] == [1, 1, 2, 4]
    assert [count_tiles(size, 2, side) for size, side in ((20, 224), (64, 224), (64, 448), (8, 4096))] == [10, 16, 4, 1]
    monkeypatch.setattr(torch, "compile", lambda network: network)
    compiled = scorer_of(run, compile=True)
    assert (compiled.streams, compiled.step) == (1, 64)


# Test-time augmentation


def test_eight_views_are_all_different_and_their_mean_does_not_turn(run: Path, tiles: np.ndarray) -> None:
    codes = torch.arange(9).reshape(1, 1, 3, 3)
    assert len({tuple(view(codes, k).flatten().tolist()) for k in range(8)}) == 8
    made = scorer_of(run, tta=True)
    views = made(tiles)
    assert views.shape == (5, 8, 2)
    turned = made(np.ascontiguousarray(np.rot90(tiles, axes=(1, 2))))
    np.testing.assert_allclose(np.sort(views, axis=1), np.sort(turned, axis=1), atol=5e-3)
    plain = scorer_of(run)
    for k in range(8):
        seen = view(torch.from_numpy(tiles).permute(0, 3, 1, 2), k).permute(0, 2, 3, 1).contiguous().numpy()
        np.testing.assert_allclose(views[:, k], plain(seen), atol=5e-3)


def test_tta_keeps_mean_spread_and_every_view(run: Path, store: Path) -> None:
    found = predict(run, store, name="tta", options=replace(CPU, tta=True)).predictions("tta")
    assert found.logits is not None and found.spread is not None
    assert found.logits.shape == (24, 8, 2)
    each = softmax(found.logits / np.float32(1.5))
    np.testing.assert_allclose(found.probabilities, each.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.spread, each.std(axis=1), atol=1e-6)
    assert np.flatnonzero(np.isnan(found.spread).any(axis=1)).tolist() == [3, 17]
    assert found.attrs["views"] == 8
    with pytest.raises(OutputExistsError, match="tta"):
        predict(run, store, name="tta", options=CPU)


# Temperature


@pytest.mark.parametrize("tta", [False, True])
def test_another_temperature_needs_no_model(
    run: Path, tmp_path: Path, tta: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2, unreadable=(3,)).path
    options = replace(CPU, tta=tta)
    first = predict(run, store, options=options).predictions("vit")
    wanted = predict(run, store, name="anew", options=replace(options, temperature=0.5)).predictions("anew")
    monkeypatch.setattr(Predictor, "runner", None)
    again = predict(run, store, options=replace(options, temperature=0.5)).predictions("vit")
    np.testing.assert_allclose(again.probabilities, wanted.probabilities, atol=1e-6)
    np.testing.assert_array_equal(again.logits, first.logits)
    assert again.attrs == first.attrs | {"temperature": 0.5}
    assert (again.spread is not None) == tta
    back = predict(run, store, options=options).predictions("vit")
    np.testing.assert_allclose(back.probabilities, first.probabilities, atol=1e-6)
    with pytest.raises(UsageError, match="temperature must be above 0"):
        PredictOptions(temperature=0)


# Features


@pytest.mark.parametrize("make", [make_run, make_cnn])
def test_features_are_what_the_last_layer_sees(make: object, tmp_path: Path, store: Path) -> None:
    run = make(tmp_path / f"run-{make.__name__}")  # type: ignore[attr-defined, operator]
    found = features(store, run, options=ENCODING).features(run.name)
    assert found.values.dtype == np.float16
    assert np.flatnonzero(np.isnan(found.values).any(axis=1)).tolist() == [3, 17]
    head = create_classifier(str(run), CLASSES).model.timm_model.get_classifier()
    readable = TileStore(store).readable
    by_hand = nn.functional.linear(torch.from_numpy(found.values[readable].astype(np.float32)), head.weight, head.bias)
    logits = scorer_of(run)(TileStore(store).read(readable))
    np.testing.assert_allclose(by_hand.detach(), logits, atol=0.02)
    assert found.attrs["model_fingerprint"] == RunMetadata.read(run).model_fingerprint


def test_features_killed_go_on_and_done_do_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsivit.store.column_writer.BLOCK", 16)
    store = write_store(tmp_path, "s", columns=10, rows=6).path
    other = write_store(tmp_path, "other", columns=10, rows=6).path
    wanted = features(other, run, options=ENCODING).features(run.name).values
    calls: list[int] = []
    begin = ModelRunner.start

    def begun(self: ModelRunner, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.shape[-1] == 48:
            calls.append(len(pixels))
            if len(calls) == 4:
                raise KeyboardInterrupt
        return begin(self, pixels)

    monkeypatch.setattr(ModelRunner, "start", begun)
    with pytest.raises(KeyboardInterrupt):
        features(store, run, options=ENCODING)
    assert TileStore(store).encoders == []
    found = features(store, run, options=ENCODING).features("vit").values
    assert calls == [10, 6, 10, 6, *[10, 6, 10, 6, 10, 2]]
    np.testing.assert_array_equal(found, wanted)
    monkeypatch.setattr(FeatureExtractor, "runners", None)
    features(store, run, options=ENCODING)


# Published models


@pytest.fixture
def hub_vit(tmp_path: Path) -> Path:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        id2label={0: "benign", 1: "tumor", 2: "necrosis"},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "hub-vit")
    return tmp_path / "hub-vit"


@pytest.fixture
def hub_resnet(tmp_path: Path) -> Path:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "hub-resnet")
    return tmp_path / "hub-resnet"


@pytest.mark.parametrize("folder", ["hub_vit", "hub_resnet"])
def test_a_published_classifier_keeps_its_own_head(
    folder: str, store: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(folder)
    found = predict(model, store, options=CPU).predictions(model.name)
    assert len(found.classes) == 3 and found.logits is not None
    if folder == "hub_vit":
        assert found.classes == ("benign", "tumor", "necrosis")
        theirs = ViTForImageClassification.from_pretrained(model)
        pixels = torch.from_numpy(TileStore(store)[5]).permute(2, 0, 1)[None]
        small = nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True).float() / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            wanted = theirs(pixel_values=(small - mean) / std).logits[0]
        np.testing.assert_allclose(found.logits[5], wanted, atol=1e-4)
    values = features(store, model, options=ENCODING).features(model.name).values
    assert values.shape == (24, 32 if folder == "hub_vit" else 16)


def test_an_encoder_has_features_and_no_classes(tmp_path: Path, store: Path) -> None:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "encoder")
    with pytest.raises(UsageError, match=r"is an encoder.*wsivit features"):
        predict(tmp_path / "encoder", store, options=CPU)
    found = features(store, tmp_path / "encoder", options=ENCODING).features("encoder")
    assert found.values.shape == (24, 32)


def test_an_encoders_fingerprint_leaves_out_the_head_drawn_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    folder = tmp_path / "encoder"
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    opened = [open_model(folder) for _ in range(2)]
    assert opened[0].spec.fingerprint == opened[1].spec.fingerprint
    weights = load_file(folder / "model.safetensors")
    weights["layernorm.bias"] += 1
    save_file(weights, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    assert open_model(folder).spec.fingerprint != opened[0].spec.fingerprint

    # So features of an interrupted run resume, and complete ones are recognised, though the model is opened again.
    monkeypatch.setattr("wsivit.store.column_writer.BLOCK", 16)
    store = write_store(tmp_path, "s", columns=10, rows=6).path
    begin, batches = ModelRunner.start, list[int]()

    def interrupted(self: ModelRunner, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.shape[-1] == 48:  # not the blank tile that gives the number of features
            batches.append(len(pixels))
            if len(batches) == 4:
                raise KeyboardInterrupt
        return begin(self, pixels)

    monkeypatch.setattr(ModelRunner, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features(store, folder, options=ENCODING)
    found = features(store, folder, options=ENCODING).features("encoder")
    assert batches == [10, 6, 10, 6, *[10, 6, 10, 6, 10, 2]], "the first block is not computed again"
    assert found.values.shape == (60, 32) and np.isfinite(found.values).all()
    monkeypatch.setattr(FeatureExtractor, "runners", None)
    features(store, folder, options=ENCODING)


def test_a_timm_folder_as_it_was_published(tmp_path: Path, store: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=4, img_size=32).eval()
    folder = tmp_path / "timm-vit"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 4, "model_args": {"img_size": 32}}
    settings = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 4, "classifier": "head"}
    (folder / "config.json").write_text(
        json.dumps(config | {"pretrained_cfg": settings | {"label_names": ["a", "b", "c", "d"]}})
    )
    found = predict(folder, store, options=CPU).predictions("timm-vit")
    assert found.classes == ("a", "b", "c", "d") and found.logits is not None
    # Nothing is said of resizing: timm's own defaults, bicubic and a cut to 0.875, are what its transform does.
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=settings))
    with torch.no_grad():
        wanted = network(transform(Image.fromarray(TileStore(store)[5]))[None])[0]
    np.testing.assert_allclose(found.logits[5], wanted, atol=0.02)
    assert open_model(folder).spec.preprocessing == Preprocessing(
        32, (0.5,) * 3, (0.5,) * 3, interpolation="bicubic", resize=36, crop="round"
    )


def test_a_name_that_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("test_vit", "google/vit-base-patch16-224"):
        with pytest.raises(UsageError, match=r"2 ways: \(1\) run once with a network.*model\.safetensors") as error:
            predict(name, store, options=CPU)
        assert "no-pretrained" not in str(error.value)


def test_a_published_model_takes_the_scale_of_the_store_or_the_one_given(hub_vit: Path, store: Path) -> None:
    assert predict(hub_vit, store, name="plain", options=CPU).predictions("plain").attrs["mismatch"] == []
    with pytest.raises(StoreMismatchError, match=r"scale: the model is for 0\.25.*tile size: the model is for 96"):
        predict(hub_vit, store, name="other", options=replace(CPU, mpp=0.25, tile_size=96))
    with pytest.raises(UsageError, match=r"does not say the tile size \(--tile-size\)"):
        predict(hub_vit, "slide.tiff", options=replace(CPU, mpp=0.5))


# TorchScript of the WSInfer zoo


class Tiny(nn.Module):
    """Two classes: how red, and how blue."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0].mean((1, 2)), x[:, 2].mean((1, 2))], 1)


def zoo_config() -> dict[str, object]:
    return {
        "spec_version": "1.0",
        "architecture": "tiny",
        "num_classes": 2,
        "class_names": ["Other", "Tumor"],
        "patch_size_pixels": 48,
        "spacing_um_px": 0.5,
        "transform": [
            {"name": "Resize", "arguments": {"size": 32}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": [0.7, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}},
        ],
    }


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo-model"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(Tiny()).save(folder / "torchscript_model.pt")
    (folder / "config.json").write_text(json.dumps(zoo_config()))
    return folder


def test_torchscript_runs_only_when_it_is_trusted(zoo: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", None)  # not even looked into
        with pytest.raises(UsageError, match=r"is a program.*--trust-torchscript"):
            predict(zoo, store, options=CPU)
    trusted = replace(CPU, trust_torchscript=True)
    found = predict(zoo, store, options=trusted).predictions("zoo-model")
    assert found.classes == ("Other", "Tumor") and found.logits is not None
    tile = TileStore(store)[5].mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(found.logits[5], [(tile[0] - 0.7) / 0.1, (tile[2] - 0.6) / 0.3], atol=0.02)
    with pytest.raises(UsageError, match="is not known of a TorchScript"):
        ModelRunner(open_model(zoo, trust_torchscript=True), CPU, features=True)


def test_a_zoo_description_is_a_contract(zoo: Path, tmp_path: Path) -> None:
    spec = open_model(zoo, trust_torchscript=True).spec
    assert (spec.mpp, spec.tile_size, spec.preprocessing.image_size) == (0.5, 48, 32)
    coarse = write_store(tmp_path, "coarse", columns=4, rows=2, mpp=1.0).path
    with pytest.raises(StoreMismatchError, match=r"scale: the model is for 0\.5"):
        predict(zoo, coarse, options=replace(CPU, trust_torchscript=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transform": [{"name": "ColorJitter"}]}, "'ColorJitter' is not known"),
        ({"class_names": None}, "not the description of a model"),
        ({"patch_size_pixels": "many"}, "not the description of a model"),
    ],
)
def test_zoo_descriptions_that_are_none(zoo: Path, change: dict[str, object], said: str) -> None:
    (zoo / "config.json").write_text(json.dumps(zoo_config() | change))
    with pytest.raises(StoreError, match=said):
        open_model(zoo, trust_torchscript=True)


def test_a_description_of_another_model_is_told(zoo: Path, store: Path) -> None:
    (zoo / "config.json").write_text(json.dumps(zoo_config() | {"class_names": ["a", "b", "c"]}))
    with pytest.raises(StoreError, match="zoo-model gives 2 numbers for a tile, but its description names 3 classes"):
        predict(zoo, store, name="three", options=replace(CPU, trust_torchscript=True))


def test_a_damaged_program_is_told(zoo: Path, store: Path) -> None:
    (zoo / "torchscript_model.pt").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"torchscript_model\.pt: cannot be loaded"):
        predict(zoo, store, name="damaged", options=replace(CPU, trust_torchscript=True))


# The contract, and what goes wrong


def test_classes_and_preprocessing_are_compared_too(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2)
    store.write_labels("region", np.zeros(8, np.int16), ("stroma", "necrosis"))
    with pytest.raises(
        StoreMismatchError, match=r"classes: the model knows stroma, tumor; label 'region' has necrosis"
    ):
        predict(run, store, options=CPU)
    allowed = predict(run, store, options=replace(CPU, allow_mismatch=True)).predictions("vit")
    assert [text.partition(":")[0] for text in allowed.attrs["mismatch"]] == ["classes"]
    learned = make_run(tmp_path / "exact")
    contract = RunMetadata.read(learned)
    replace(contract, data=[{"id": "a", "downscale": "area"}], label="other").write(learned)
    spec = open_model(learned).spec
    assert spec.downscale == {"area"}
    half = replace(store.parameters, plan=replace(store.parameters.plan, reduce=2, downscale="dct"))
    store.parameters = half
    with pytest.raises(StoreMismatchError, match=r"preprocessing: the model learned from tiles scaled by area.*dct"):
        predict(learned, store, options=CPU)


def poisoned(folder: Path) -> Path:
    """A finished run whose file of weights holds a NaN, as older versions saved them."""
    made = create_classifier("test_vit", CLASSES, pretrained=False, image_size=32)
    save_classifier(made, folder)
    state = load_file(folder / "model.safetensors")
    state["head.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    contract = RunMetadata("test_vit", CLASSES, "region", 0.5, 48, made.preprocessing, [], {}, {})
    replace(contract, model_fingerprint=weights_fingerprint(folder)).write(folder)
    return folder


def test_weights_that_are_nan_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder, store = poisoned(tmp_path / "nan"), write_store(tmp_path, "s", columns=4, rows=2)
    with pytest.raises(StoreError, match=r"model nan: its weights .* 1 of \d+ tensors hold NaN .*head\.weight"):
        predict(folder, store.path, options=CPU)
    assert TileStore(store.path).runs == []
    with pytest.raises(StoreError, match="model nan: its weights"):
        evaluate(folder, [store.path], options=EvaluateOptions(device="cpu", subset="all"))


def test_weights_that_are_nan_are_never_saved(tmp_path: Path) -> None:
    made = create_classifier("test_vit", CLASSES, pretrained=False, image_size=32)
    made.head[0].data[0, 0] = float("inf")
    with pytest.raises(StoreError, match=r"not saved: its weights .* NaN or infinity"):
        save_classifier(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_finite_weights_that_overflow_are_the_models_fault_not_the_tiles(tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    made = create_classifier("test_vit", CLASSES, pretrained=False, image_size=32)
    made.head[0].data.fill_(3e38)
    contract = RunMetadata("test_vit", CLASSES, "region", 0.5, 48, made.preprocessing, [], {}, {})
    replace(contract, model_fingerprint=save_classifier(made, folder)).write(folder)
    store = write_store(tmp_path, "s", columns=4, rows=2)
    for run in (
        lambda: predict(folder, store.path, options=CPU),
        lambda: evaluate(folder, [store.path], options=EvaluateOptions(device="cpu", subset="all")),
    ):
        with pytest.raises(StoreError, match=r"model huge gives no number \(NaN or infinity\) for \d of \d tiles"):
            run()


def test_one_class_alone_is_a_yes_or_no() -> None:
    made = softmax(np.array([[0.0], [np.log(3)], [np.nan]], np.float32))
    np.testing.assert_allclose(made[:2, 0], [0.5, 0.75])
    assert np.isnan(made[2, 0])


# Many slides


def test_the_model_is_loaded_once_and_devices_share_the_slides(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [write_store(tmp_path, f"s{i}", columns=4, rows=2, seed=i).path for i in range(4)]
    loads: list[str] = []
    begin = ModelRunner.__init__

    def begun(self: ModelRunner, *arguments: object) -> None:
        loads.append(arguments[1].device)  # type: ignore[attr-defined]
        begin(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRunner, "__init__", begun)
    sources = [*stores[:2], tmp_path / "nothing.zarr", *stores[2:]]
    outcomes = list(predict_each(run, sources, options=replace(CPU, device="cpu, cpu")))
    assert [source for source, _ in outcomes] == sources
    assert isinstance(outcomes[2][1], StoreError)
    assert loads == ["cpu", "cpu"]
    for path, (_, outcome) in zip(stores, [outcomes[i] for i in (0, 1, 3, 4)], strict=True):
        assert isinstance(outcome, TileStore)
        wanted = predict(run, path, name="alone", options=CPU).predictions("alone").probabilities
        np.testing.assert_array_equal(outcome.predictions("vit").probabilities, wanted)
