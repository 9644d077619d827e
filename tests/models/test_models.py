"""The model factory: every library's folder opens in its own library with equal logits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.transforms.functional import to_pil_image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from wsivit.errors import OutputError, StoreError, UsageError
from wsivit.models.classifier import create_classifier, require_image_size
from wsivit.models.classifier_folder import load_classifier, save_classifier
from wsivit.models.hub import hub_errors
from wsivit.training.train import TrainOptions, train

CLASSES = ("liver", "tumour", "stroma")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub_vit(tmp_path: Path) -> Path:
    """A tiny transformers ViT, as the hub would hand it out: 10 classes, 32 px."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=10,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "hub-vit")
    return tmp_path / "hub-vit"


@pytest.fixture
def hub_resnet(tmp_path: Path) -> Path:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "hub-resnet")
    return tmp_path / "hub-resnet"


@pytest.mark.parametrize(("name", "size"), [("test_vit", 64), ("test_resnet", 64), ("test_vit", None)])
def test_timm_folder_opens_everywhere_with_equal_logits(tmp_path: Path, name: str, size: int | None) -> None:
    made = create_classifier(name, CLASSES, pretrained=False, image_size=size)
    made.model.eval()
    save_classifier(made, tmp_path / "run")
    x = pixels(made.preprocessing.image_size)
    with torch.no_grad():
        wanted = made.model(pixel_values=x).logits
        in_wsivit = load_classifier(tmp_path / "run")
        in_transformers = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
        in_timm = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
        assert torch.equal(in_wsivit.model(pixel_values=x).logits, wanted)
        assert torch.equal(in_transformers(pixel_values=x).logits, wanted)
        assert torch.equal(in_timm(x), wanted)
    assert wanted.abs().sum() > 0
    # Also of a model that was never saved by a Trainer: a resumed run's folder is an unbroken one's.
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"
    assert in_wsivit.classes == CLASSES == tuple(in_transformers.config.id2label.values())
    assert in_wsivit.preprocessing == made.preprocessing
    assert timm.data.resolve_model_data_config(in_timm)["mean"] == list(made.preprocessing.mean)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_cannot_be_written_is_said_and_nothing_is_left_of_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=f"cannot write .*{name}"):
        save_classifier(create_classifier("test_vit", CLASSES, pretrained=False), tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("folder", ["hub_vit", "hub_resnet"])
def test_transformers_folder_opens_everywhere_with_equal_logits(
    tmp_path: Path, folder: str, request: pytest.FixtureRequest
) -> None:
    made = create_classifier(str(request.getfixturevalue(folder)), CLASSES)
    made.model.eval()
    save_classifier(made, tmp_path / "run")
    x = pixels(made.preprocessing.image_size)
    with torch.no_grad():
        wanted = made.model(pixel_values=x).logits
        again = load_classifier(tmp_path / "run")
        theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
        assert torch.equal(again.model(pixel_values=x).logits, wanted)
        assert torch.equal(theirs(pixel_values=x).logits, wanted)
    assert wanted.shape == (2, 3)
    assert again.classes == CLASSES
    assert again.preprocessing == made.preprocessing


def test_the_processor_in_the_folder_prepares_images_as_wsivit_does(tmp_path: Path) -> None:
    made = create_classifier("test_resnet", CLASSES, pretrained=False, image_size=64)
    save_classifier(made, tmp_path / "run")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    theirs = processor(to_pil_image(image), return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (made.preprocessing.mean, made.preprocessing.std))
    torch.testing.assert_close(theirs, (image / 255 - mean) / std, atol=1e-5, rtol=0)


def test_backbone_weights_are_kept_and_position_embeddings_follow_the_input_size(hub_vit: Path) -> None:
    source = ViTForImageClassification.from_pretrained(hub_vit)
    made = create_classifier(str(hub_vit), CLASSES, image_size=64)
    assert made.model.config.image_size == 64
    ours, theirs = made.model.state_dict(), source.state_dict()
    assert torch.equal(ours["vit.embeddings.cls_token"], theirs["vit.embeddings.cls_token"])
    assert ours["vit.embeddings.position_embeddings"].shape == (1, 65, 32)
    assert made.model(pixel_values=pixels(64)).logits.shape == (2, 3)


def test_timm_folder_is_a_starting_point_for_another_size_and_other_classes(tmp_path: Path) -> None:
    first = create_classifier("test_vit", CLASSES, pretrained=False, image_size=64)
    save_classifier(first, tmp_path / "run")
    second = create_classifier(str(tmp_path / "run"), ("a", "b"), image_size=96)
    ours, theirs = second.model.state_dict(), first.model.state_dict()
    same = "timm_model.blocks.0.attn.qkv.weight"
    assert torch.equal(ours[same], theirs[same])
    assert second.model(pixel_values=pixels(96)).logits.shape == (2, 2)


def test_weights_of_a_named_architecture_come_from_a_safetensors_file(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=1000)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    made = create_classifier("test_resnet", CLASSES, weights=tmp_path / "w.safetensors")
    assert torch.equal(made.model.timm_model.conv1[0].weight, network.conv1[0].weight)


def test_weights_of_a_transformers_architecture_come_from_a_safetensors_file(hub_vit: Path, tmp_path: Path) -> None:
    other = ViTForImageClassification(ViTConfig.from_pretrained(hub_vit))
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    made = create_classifier(str(hub_vit), CLASSES, weights=tmp_path / "w.safetensors")
    assert torch.equal(made.model.vit.embeddings.cls_token, other.vit.embeddings.cls_token)
    assert made.model(pixel_values=pixels(32)).logits.shape == (2, 3)
    with pytest.raises(UsageError, match="safetensors"):
        create_classifier(str(hub_vit), CLASSES, weights=tmp_path / "w.bin")
    save_file({"elsewhere": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"not the weights of a vit: vit\..* is not in it"):
        create_classifier(str(hub_vit), CLASSES, weights=tmp_path / "other.safetensors")


def test_from_scratch_keeps_timms_own_initialisation() -> None:
    torch.manual_seed(3)
    ours = create_classifier("test_resnet", CLASSES, pretrained=False).model.timm_model
    torch.manual_seed(3)
    theirs = timm.create_model("test_resnet", num_classes=3)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_head_is_what_follows_the_backbone(hub_vit: Path) -> None:
    for name in ("test_vit", str(hub_vit)):
        head = create_classifier(name, CLASSES, pretrained=name != "test_vit").head
        assert [p.shape[0] for p in head] == [3, 3]


@pytest.mark.parametrize("name", ["test_vit", "google/vit-base-patch16-224-in21k"])
def test_without_network_the_error_names_the_three_ways(name: str) -> None:
    with pytest.raises(UsageError, match=r"network.*model\.safetensors.*--no-pretrained"):
        create_classifier(name, CLASSES)


def test_bad_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resnet50"):
        create_classifier("resnet5O", CLASSES)
    with pytest.raises(UsageError, match="safetensors files only"):
        create_classifier("test_vit", CLASSES, weights=tmp_path / "w.pth")
    with pytest.raises(UsageError, match="no such file"):
        create_classifier("test_vit", CLASSES, weights=tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(UsageError, match=r"w\.safetensors"):
        create_classifier("test_vit", CLASSES, weights=tmp_path / "w.safetensors")
    with pytest.raises(StoreError, match=r"config\.json"):
        load_classifier(tmp_path)


def test_a_slow_hub_is_not_waited_for_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsivit.models.hub.PATIENCE", 0.01)
    with caplog.at_level("INFO", "wsivit.models.hub"):
        with hub_errors("owner/name"):
            while not caplog.records:
                time.sleep(0.01)
        with hub_errors("owner/other"):
            pass
    assert "owner/name: still waiting for the hub" in caplog.text


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [("vit_small_patch16_224", 250, "240 or 256"), ("test_vit", 100, "96 or 112"), ("test_vit", 9, "16"),
     ("vit_small_patch14_dinov2", 224 + 1, "224 or 238"), ("mixer_s16_224", 250, "240 or 256")],
)  # fmt: skip
def test_an_input_size_between_multiples_of_the_patch_is_refused_with_the_nearest(
    name: str, size: int, nearest: str
) -> None:
    with pytest.raises(UsageError, match=rf"{name} .*patches of \d+ px, and {size} px .* nearest sizes are {nearest}$"):
        create_classifier(name, CLASSES, pretrained=False, image_size=size)


def test_the_patch_of_a_transformers_model_counts_and_cnns_take_any_size(hub_vit: Path) -> None:
    with pytest.raises(UsageError, match=r"patches of 8 px, and 36 px .*nearest sizes are 32 or 40$"):
        create_classifier(str(hub_vit), CLASSES, image_size=36)
    torch.manual_seed(0)
    require_image_size("test_resnet", 50)
    require_image_size("test_vit", 64)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1)), "looking at a network draws no random number"


def test_training_is_refused_for_its_input_size_before_there_are_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nearest sizes are 240 or 256"):
        train(
            [tmp_path / "nothing.zarr"],
            model="vit_small_patch16_224",
            output=tmp_path / "run",
            options=TrainOptions(pretrained=False, image_size=250),
        )
    assert not (tmp_path / "run").exists()


def test_a_network_that_takes_one_size_only_says_so() -> None:
    with pytest.raises(UsageError, match="levit_128s does not take input of 250 px"):
        create_classifier("levit_128s", CLASSES, pretrained=False, image_size=250)
