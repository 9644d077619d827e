"""The input of published models, against what their own processors and transforms make of the same pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from support.train_helpers import tissue, write_store
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from wsivit.errors import UsageError
from wsivit.inference import PredictOptions, predict
from wsivit.models import open_model
from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import load_classifier, save_classifier
from wsivit.models.model_input import fit_tiles, model_input
from wsivit.models.published_input import processor_input, timm_input
from wsivit.models.run_folder import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, RunMetadata
from wsivit.store import TileStore

IMAGENET = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
ALWAYS = {"do_normalize": True, "do_resize": True}
CONVNEXT = {**ALWAYS, "feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "resample": 3}
BIT = {**ALWAYS, "image_processor_type": "BitImageProcessor", "do_center_crop": True, "do_convert_rgb": True}
MOBILEVIT = {"do_center_crop": True, "do_flip_channel_order": True, "do_resize": True, "resample": 2}
PUBLISHED: dict[str, dict[str, Any]] = {
    "google/vit-base-patch16-224": {
        **ALWAYS, **HALF, "image_processor_type": "ViTImageProcessor", "do_rescale": True, "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
    },
    "facebook/deit-base-distilled-patch16-224": {
        **ALWAYS, **IMAGENET, "feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 224,
        "do_center_crop": True, "resample": 3, "size": 256,
    },
    "microsoft/beit-base-patch16-224": {
        **ALWAYS, **HALF, "feature_extractor_type": "BeitFeatureExtractor", "crop_size": 224,
        "do_center_crop": False, "resample": 2, "size": 224,
    },
    "facebook/data2vec-vision-base": {
        **ALWAYS, **HALF, "feature_extractor_type": "BeitFeatureExtractor", "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True, "resample": 3, "size": {"height": 256, "width": 256},
    },
    "microsoft/swin-tiny-patch4-window7-224": {
        **ALWAYS, **IMAGENET, "feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 224,
    },
    "microsoft/resnet-50": {**CONVNEXT, **IMAGENET, "size": 224},
    "facebook/convnext-base-384": {**CONVNEXT, **IMAGENET, "size": 384},
    "facebook/regnet-y-040": {**CONVNEXT, **IMAGENET, "size": {"shortest_edge": 224}, "crop_pct": 0.95},
    "microsoft/cvt-13": {**CONVNEXT, **IMAGENET, "size": {"shortest_edge": 224}, "resample": 2},
    "facebook/dinov2-base": {
        **BIT, **IMAGENET, "crop_size": {"height": 224, "width": 224}, "resample": 3, "size": {"shortest_edge": 256},
        "do_rescale": True, "rescale_factor": 0.00392156862745098,
    },
    "google/bit-50": {
        **BIT, **HALF, "crop_size": {"height": 448, "width": 448}, "resample": 2, "size": {"shortest_edge": 448},
    },
    "microsoft/focalnet-tiny": {
        **BIT, **IMAGENET, "crop_size": {"height": 224, "width": 224}, "resample": 2, "size": {"shortest_edge": 256},
    },
    "apple/mobilevit-small": {
        **MOBILEVIT, "feature_extractor_type": "MobileViTFeatureExtractor", "crop_size": 256, "size": 288,
    },
    "apple/mobilevitv2-1.0": {
        **MOBILEVIT, "image_processor_type": "MobileViTImageProcessor", "do_rescale": True, "resample": 3,
        "crop_size": {"height": 256, "width": 256}, "size": {"shortest_edge": 288},
    },
    "google/mobilenet_v2_1.0_224": {
        **ALWAYS, **HALF, "image_processor_type": "MobileNetV2ImageProcessor", "do_center_crop": True, "resample": 2,
        "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256},
    },
    "google/mobilenet_v1_0.75_192": {
        **ALWAYS, **HALF, "image_processor_type": "MobileNetV1ImageProcessor", "do_center_crop": True, "resample": 2,
        "crop_size": {"height": 192, "width": 192}, "size": {"shortest_edge": 220},
    },
    "facebook/levit-128S": {
        **ALWAYS, **IMAGENET, "feature_extractor_type": "LevitFeatureExtractor", "do_center_crop": True, "resample": 3,
        "size": 224,
    },
    "sail/poolformer_s12": {
        **ALWAYS, **IMAGENET, "feature_extractor_type": "PoolFormerFeatureExtractor", "crop_pct": 0.9, "resample": 3,
        "size": 224,
    },
    "google/efficientnet-b0": {
        **ALWAYS, "image_processor_type": "EfficientNetImageProcessor", "image_mean": list(IMAGENET_MEAN),
        "image_std": [0.47853944, 0.4732864, 0.47434163], "do_center_crop": False, "include_top": True, "resample": 0,
        "crop_size": {"height": 289, "width": 289}, "rescale_offset": False, "size": {"height": 224, "width": 224},
    },
    "openai/clip-vit-base-patch32": {
        **ALWAYS, **CLIP, "feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224, "do_center_crop": True,
        "resample": 3, "size": 224,
    },
    "google/siglip-base-patch16-224": {
        **ALWAYS, **HALF, "image_processor_type": "SiglipImageProcessor", "do_rescale": True, "resample": 3,
        "size": {"height": 224, "width": 224},
    },
    "facebook/dinov3-vits16-pretrain-lvd1689m": {
        **ALWAYS, **IMAGENET, "image_processor_type": "DINOv3ViTImageProcessorFast", "do_rescale": True, "resample": 2,
        "size": {"height": 224, "width": 224},
    },
    "Zetatech/pvt-tiny-224": {
        **ALWAYS, **IMAGENET, "image_processor_type": "PvtImageProcessor", "resample": 2,
        "size": {"height": 224, "width": 224},
    },
}  # fmt: skip
VIT = PUBLISHED["google/vit-base-patch16-224"]
VARIANTS: dict[str, dict[str, Any]] = {
    "no normalising": {**VIT, "do_normalize": False},
    "no rescaling": {**VIT, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    "bytes as they are": {**VIT, "do_rescale": False, "do_normalize": False},
    "another factor": {**VIT, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    "offset": {**PUBLISHED["google/efficientnet-b0"], "rescale_offset": True, "rescale_factor": 1 / 127.5},
    "nearest": {**VIT, "resample": 0},
    "lanczos": {**VIT, "resample": 1},
    "RGB MobileViT": {**PUBLISHED["apple/mobilevit-small"], "do_flip_channel_order": False},
    "cut without resizing": {**PUBLISHED["facebook/dinov2-base"], "do_resize": False},
    "black margin": {**PUBLISHED["facebook/dinov2-base"], "size": {"shortest_edge": 191}},
    "odd margin": {**PUBLISHED["facebook/dinov2-base"], "size": {"shortest_edge": 235}},
}


def folder_of(path: Path, processor: dict[str, Any]) -> str:
    path.mkdir(exist_ok=True)
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(path)


def picture(side: int) -> NDArray[np.uint8]:
    made = tissue(1, side, np.random.default_rng(side))
    made[: side // 3, : side // 3] = [255, 0, 60]  # edges, where filters overshoot, and a colour that shows its order
    return made


def ours(made: Preprocessing, pixels: NDArray[np.uint8]) -> torch.Tensor:
    return model_input(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), made)[0]


@pytest.mark.parametrize("name", [*PUBLISHED, *VARIANTS])
def test_input_is_what_the_models_own_processor_makes(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "model", (PUBLISHED | VARIANTS)[name])
    made = processor_input(folder)
    assert made is not None
    processor = AutoImageProcessor.from_pretrained(folder)
    for side in (256, 333) if made.resize or made.interpolation == "none" else (150, 256, 333):
        pixels = picture(side)
        theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0].float()
        level = torch.tensor(made.std)[:, None, None] / made.scale  # of input values into grey levels
        apart = (ours(made, pixels) - theirs) * level
        assert apart.shape == (made.channel_count, made.image_size, made.image_size)
        assert apart.abs().max() <= 1.01


def test_fields_mean_what_each_family_means_by_them(tmp_path: Path) -> None:
    wanted = {
        "facebook/dinov2-base": (256, 224, "RGB"),
        "microsoft/resnet-50": (256, 224, "RGB"),
        "facebook/levit-128S": (256, 224, "RGB"),
        "sail/poolformer_s12": (248, 224, "RGB"),
        "apple/mobilevit-small": (288, 256, "BGR"),
    }
    for i, (name, expected) in enumerate(wanted.items()):
        made = processor_input(folder_of(tmp_path / str(i), PUBLISHED[name]))
        assert made is not None
        assert (made.resize, made.image_size, made.channels) == expected


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": {"height": 224, "width": 192}}, "192 x 224; tiles are squares"),
        ({"resample": 4}, "Pillow's filter 4"),
        ({"size": {"longest_edge": 224}}, "not one side of a square"),
        ({"do_resize": False}, "nothing says which size"),
        ({"image_processor_type": "ImageGPTImageProcessor", "clusters": [[0, 0, 0], [255, 255, 255]]}, "cannot be"),
        ({"image_processor_type": "NobodysProcessor"}, "transformers cannot load it"),
        ({"image_std": [0.5, 0.0, 0.5]}, "cannot be|no finite input"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        processor_input(folder_of(tmp_path / "model", {**VIT, **change}))


def test_a_processor_that_does_something_unknown_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ViTImageProcessor.rescale_and_normalize
    monkeypatch.setattr(
        ViTImageProcessor, "rescale_and_normalize", lambda self, images, *rest: own(self, 255 - images, *rest)
    )
    with pytest.raises(UsageError, match="does something more"):
        processor_input(folder_of(tmp_path / "model", VIT))


def test_one_grey_channel_is_pillows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", {**VIT, "image_mean": [0.5], "image_std": [0.25]})
    made = processor_input(folder, channels=1)
    assert made is not None and made.channels == "L"
    pixels = picture(256)
    grey = AutoImageProcessor.from_pretrained(folder)(Image.fromarray(pixels).convert("L"), return_tensors="pt")
    assert (ours(made, pixels) - grey["pixel_values"][0]).abs().max() * 0.25 * 255 <= 1.01
    with pytest.raises(UsageError, match="takes 4 channels"):
        processor_input(folder, channels=4)


def test_tiles_of_another_size_are_refused_where_nothing_resizes() -> None:
    made = Preprocessing(32, interpolation="none")
    fit_tiles(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), made)
    for side in (31, 48):
        with pytest.raises(UsageError, match="--tile-size 32"):
            fit_tiles(torch.zeros(1, 3, side, side, dtype=torch.uint8), made)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "input_size": (3, 224, 224),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        },
        {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash"},
        {"input_size": (3, 192, 192), "crop_pct": 0.95, "crop_mode": "border"},
        {"input_size": (3, 224, 224)},
        {"input_size": (3, 224, 224), "crop_pct": 0.95, "interpolation": "bicubic"},  # an odd margin
        {"input_size": (3, 128, 128), "crop_pct": 1.15},  # a black margin (VOLO)
        {"input_size": (3, 288, 288), "crop_pct": 0.98, "interpolation": "bilinear"},
    ],
)
def test_timm_input_is_what_timms_transform_makes(settings: dict[str, Any]) -> None:
    made = timm_input("model", settings)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=settings))
    for side in (150, 256, 333):
        pixels = picture(side)
        apart = (ours(made, pixels) - transform(Image.fromarray(pixels))) * torch.tensor(made.std)[:, None, None] * 255
        assert apart.abs().max() <= 1.01


def test_every_way_in_which_timm_makes_input_is_known() -> None:
    seen = set()
    for name in timm.list_pretrained():
        settings = timm.get_pretrained_cfg(name).to_dict()
        keys = ("input_size", "crop_pct", "interpolation", "crop_mode", "mean", "std")
        kind = tuple(str(settings.get(key)) for key in keys)
        if settings["input_size"][-1] < 330 and kind not in seen:
            seen.add(kind)
            timm_input(name, settings)  # is proven, or raises
    assert len(seen) > 50


def test_timm_input_that_is_no_square_is_refused() -> None:
    with pytest.raises(UsageError, match="tiles are squares") as told:
        timm_input("model", {"input_size": (3, 224, 160)})
    assert str(told.value).count("model model:") == 1


@pytest.fixture(scope="module")
def bgr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with the processor of MobileViT; an untrained MobileViT itself gives one answer to everything."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=64, patch_size=8
    )
    network = ViTForImageClassification(config)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("published") / "bgr"
    network.save_pretrained(folder)
    folder_of(folder, PUBLISHED["apple/mobilevit-small"] | {"size": 72, "crop_size": 64})
    return folder


def test_scores_of_a_bgr_model_are_transformers_own(tmp_path: Path, bgr: Path) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2).path
    found = predict(bgr, store, options=PredictOptions(device="cpu")).predictions("bgr")
    network = ViTForImageClassification.from_pretrained(bgr).eval()
    processor = AutoImageProcessor.from_pretrained(bgr)
    tiles = [Image.fromarray(TileStore(store)[i]) for i in range(8)]
    with torch.no_grad():
        wanted = network(**processor(tiles, return_tensors="pt")).logits.numpy()
    assert found.logits is not None
    assert wanted.std(axis=0).max() > 1e-3  # tiles are told apart at all
    np.testing.assert_allclose(found.logits, wanted, atol=1e-3)


def test_a_run_from_a_bgr_model_says_so_to_transformers_too(tmp_path: Path, bgr: Path) -> None:
    made = create_classifier(str(bgr), ["a", "b"])
    assert made.preprocessing == Preprocessing(64, (0.0,) * 3, (1.0,) * 3, channels="BGR")
    save_classifier(made, tmp_path / "run")
    assert load_classifier(tmp_path / "run").preprocessing == made.preprocessing
    pixels = picture(64)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "run")(Image.fromarray(pixels), return_tensors="pt")
    torch.testing.assert_close(ours(made.preprocessing, pixels), theirs["pixel_values"][0].float())


def test_a_processor_of_another_model_is_refused_before_tiles_are_read(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    folder_of(tmp_path / "vit", {**VIT, "size": {"height": 64, "width": 64}})
    with pytest.raises(UsageError, match="does not take the input of 64 px"):
        open_model(tmp_path / "vit")


def test_runs_of_format_1_are_still_read(tmp_path: Path) -> None:
    run = RunMetadata("m", ("a", "b"), "region", 0.5, 48, Preprocessing(32), [], {}, {}, "sha256:x")
    run.write(tmp_path)
    path = tmp_path / "wsivit.json"
    values = json.loads(path.read_text())
    assert values["format"] == 3
    for later in ("figures", "probe", "encoder"):
        del values[later]
    old = values | {
        "format": 1,
        "validation": {"accuracy": 0.75},
        "preprocessing": {"image_size": 32, "mean": [0.1] * 3, "std": [0.2] * 3},
    }
    path.write_text(json.dumps(old))
    read = RunMetadata.read(tmp_path)
    assert read.figures == {"tune": {"accuracy": 0.75}, "costs": {}}
    assert replace(read, figures={}) == replace(run, preprocessing=Preprocessing(32, (0.1,) * 3, (0.2,) * 3))
