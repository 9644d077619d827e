"""Vectors of the probe pictures: the documented rule is known from its variants."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.encoders import draw, pooled, shallow, timm_network
from torchvision import transforms  # type: ignore[import-untyped]

from wsivit.errors import UsageError
from wsivit.models import Encoder, check_encoder, encoder, probe_pictures, write_probe_pictures


def test_probe_pictures_never_change(tmp_path: Path) -> None:
    digest = hashlib.sha256(probe_pictures().tobytes()).hexdigest()
    assert digest == "e81d35049a97d9c3607097d6df137b1201b9cd533c045cc24c1b498721227ec0"
    paths = write_probe_pictures(tmp_path)
    assert [p.name for p in paths] == [f"probe-{i}.png" for i in range(8)]
    assert (np.stack([np.asarray(Image.open(p)) for p in paths]) == probe_pictures()).all()


def vectors(network: Any, *, resize: Any, mean: Any, std: Any, pooling: str, prefix: int) -> Any:
    """What another tool makes of the pictures, with torchvision's transforms."""
    card = transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize(mean, std)])
    with torch.inference_mode():
        batch = torch.stack([card(Image.fromarray(picture)) for picture in probe_pictures()])
        return pooled(network.forward_features(batch), pooling, prefix).numpy()


BILINEAR, BICUBIC = transforms.InterpolationMode.BILINEAR, transforms.InterpolationMode.BICUBIC
HALF = (0.5, 0.5, 0.5)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "right": ({}, "these are vectors of virchow2"),
    "half": ({"half": True}, "these are vectors of virchow2"),
    "cls": ({"pooling": "cls"}, "but with pooling cls"),
    "mean": ({"pooling": "mean"}, "but with pooling mean"),
    "registers": ({"prefix": 1}, "but with pooling cls+mean that counts the register tokens"),
    "bilinear": ({"resize": [transforms.Resize(224, BILINEAR)]}, "but with interpolation bilinear"),
    "crop": (
        {"resize": [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224)]},
        "but with tiles resized to 256 px and cropped to 224",
    ),
    "normalisation": ({"mean": HALF, "std": HALF}, "but with mean and deviation of 0.5"),
    "other": ({"resize": [transforms.CenterCrop(224)]}, "by no rule that is known"),
}


@pytest.fixture(scope="module")
def virchow2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Any, Path]:
    e = shallow(encoder("virchow2"))
    e = replace(e, dim=320, arguments=e.arguments | {"embed_dim": 160, "num_heads": 2})  # narrow: quick
    network = timm_network(e)
    draw(network)
    folder = tmp_path_factory.mktemp("virchow2")
    save_file(network.state_dict(), folder / "model.safetensors")
    return e, network, folder


@pytest.mark.parametrize("planted", VARIANTS)
def test_planted_variants_are_recognised(
    planted: str, virchow2: tuple[Encoder, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, network, folder = virchow2
    changed, says = VARIANTS[planted]
    how: dict[str, Any] = {"resize": [transforms.Resize(224, BICUBIC)], "pooling": "cls+mean", "prefix": 5, **IMAGENET}
    half = changed.get("half", False)
    made = vectors(network, **(how | {k: v for k, v in changed.items() if k != "half"}))
    np.save(tmp_path / "vectors.npy", made.astype(np.float16) if half else made)
    monkeypatch.setattr(import_module("wsivit.models.encoder_check"), "encoder", lambda name: e)
    found = check_encoder("virchow2", tmp_path / "vectors.npy", weights=folder, allow_other_weights=True)
    assert says in str(found)
    assert found.matches == (planted in ("right", "half"))


def published(folder: Path, network: Any, **settings: Any) -> Path:
    """The form of a timm repository, whose settings say how its input is made."""
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 1.0}
    config |= {"mean": list(IMAGENET["mean"]), "std": list(IMAGENET["std"])}
    pooled = {"global_pool": settings.pop("global_pool", "")}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "vit_huge_patch14_224", "pretrained_cfg": config | settings} | pooled)
    )
    return folder


def halved(network: Any) -> Any:
    changed = deepcopy(network)
    return changed.half().float()


OF_WEIGHTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "half precision": (halved, {}, "these are weights of virchow2"),
    "other mean": (halved, {"mean": [0.5] * 3, "std": [0.5] * 3}, "but with mean and deviation of 0.5"),
    "bilinear": (halved, {"interpolation": "bilinear"}, "but with interpolation bilinear"),
    "crop": (halved, {"crop_pct": 0.875}, "but with tiles resized to 256 px and cropped to 224"),
    "pooling": (halved, {"global_pool": "token"}, "but with pooling cls"),
}


@pytest.mark.parametrize("planted", [*OF_WEIGHTS, "other weights"])
def test_weights_are_told_from_others_and_from_other_rules(
    planted: str, virchow2: tuple[Encoder, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, network, folder = virchow2
    monkeypatch.setattr(import_module("wsivit.models.encoder_check"), "encoder", lambda name: e)
    change, settings, says = OF_WEIGHTS.get(planted, (None, {}, "not virchow2, by no rule that is known"))
    other = deepcopy(network)
    if change is None:
        torch.nn.init.normal_(other.patch_embed.proj.weight, std=0.05)
    else:
        other = change(network)
    given = published(tmp_path, other, **settings)
    found = check_encoder("virchow2", given, weights=folder, allow_other_weights=True)
    assert says in str(found) and found.what == "weights"
    assert found.matches == says.startswith("these are")


def test_registered_weights_need_no_others(
    virchow2: tuple[Encoder, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, network, folder = virchow2
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(import_module("wsivit.models.encoder_check"), "encoder", lambda name: replace(e, sha256=sha256))
    assert check_encoder("virchow2", folder / "model.safetensors").matches
    wrong = check_encoder("virchow2", published(tmp_path, network, crop_pct=0.875))
    assert not wrong.matches and "cropped to 224" in wrong.variant
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    published(tmp_path, halved(network))
    with pytest.raises(UsageError, match=r"its checksum is not the registry's, and nothing to compare with: .*OFFLINE"):
        check_encoder("virchow2", tmp_path)


@pytest.mark.parametrize(
    "values", [np.zeros((7, 384)), np.full((8, 384), np.nan), np.zeros(8)], ids=["7", "nan", "1-d"]
)
def test_files_without_such_vectors_are_refused(values: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(UsageError, match="expected 8 vectors of finite numbers"):
        check_encoder("virchow2", tmp_path / "v.npy", weights=tmp_path)


def test_pickled_vectors_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{}] * 8), allow_pickle=True)
    with pytest.raises(UsageError, match="holds no vectors"):
        check_encoder("virchow2", tmp_path / "v.npy", weights=tmp_path)
