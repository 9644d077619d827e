"""The registry of encoders: each opened in the form of its repository, against its own library's forward."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.encoders import (
    assert_is_librarys_own,
    documented_input,
    draw,
    narrow,
    pooled,
    shallow,
    tiles,
    timm_network,
)
from torch import Tensor, nn

from wsivit.errors import StoreError, UsageError
from wsivit.models import encoder, encoders, model_input, open_encoder, unpickle
from wsivit.models.encoders import Encoder

RUNNABLE = [e for e in encoders().values() if not e.refused]


def opened(e: Encoder, weights: Path) -> Any:
    return open_encoder(e, weights, allow_other_weights=True)


def test_registry_is_sound() -> None:
    assert len(encoders()) == 41
    spellings = [s.lower() for e in encoders().values() for s in (e.name, *e.aliases)]
    assert len(spellings) == len(set(spellings))
    for e in RUNNABLE:
        assert e.dim > 0 and e.licence and len(e.mean) == len(e.std) == 3
        assert len(e.sha256) in (0, 64) and (not e.pickle or e.sha256)
    assert {e.name for e in encoders().values() if e.pickle} == {
        "uni", "uni2-h", "gigapath", "h-optimus-0", "gpfm", "pathorchestra", "openmidnight",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("UNI2-h", "uni2-h"),
        ("uni2_h", "uni2-h"),
        ("hoptimus1", "h-optimus-1"),
        ("Virchow 2", "virchow2"),
        ("paige-ai/Virchow2", "virchow2"),
        ("hf-hub:bioptimus/H0-mini", "h0-mini"),
        ("CONCH v1.5", "conch-v1.5"),
    ],
)
def test_names_forgive_spelling(written: str, name: str) -> None:
    assert encoder(written).name == name


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown encoder 'virchow3'; the nearest are virchow, virchow2;"):
        encoder("virchow3")


# One of each kind: class token, two parts and registers left out of the mean, a CNN, tiles that are cropped, tokens of
# transformers, its projection. tests/long has all.
FEW = ["lunit-dino-s16", "h0-mini", "resnet50-imagenet", "phikon", "plip"]


@pytest.mark.parametrize("name", FEW)
def test_encoders_are_their_librarys_own(name: str, tmp_path: Path) -> None:
    assert_is_librarys_own(encoder(name), tmp_path)


def test_ctranspath_is_swin_with_its_own_stem(tmp_path: Path) -> None:
    e = encoder("ctranspath")

    class Stem(nn.Module):  # as TransPath's ctran.py has it, but for the order of axes that timm's Swin takes today
        def __init__(self, **_: Any) -> None:
            super().__init__()
            stem: list[nn.Module] = []
            channels, wide = 3, 12
            for _layer in range(2):
                stem += [nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
                channels, wide = wide, wide * 2
            stem.append(nn.Conv2d(channels, 96, kernel_size=1))
            self.proj, self.norm, self.grid_size = nn.Sequential(*stem), nn.LayerNorm(96), (56, 56)

        def forward(self, pictures: Tensor) -> Tensor:
            made: Tensor = self.norm(self.proj(pictures).flatten(2).transpose(1, 2)).unflatten(1, (56, 56))
            return made

    network = timm.create_model("swin_tiny_patch4_window7_224", embed_layer=Stem, num_classes=0).eval()
    draw(network)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "model.safetensors")
    pixels = tiles(224)
    with torch.inference_mode():
        ours = opened(e, tmp_path).load()(model_input(pixels, e.preprocessing))
        torch.testing.assert_close(ours, network(documented_input(e, pixels)), rtol=0, atol=1e-6)
    assert ours.shape == (2, 768)


def test_input_is_what_torchvision_makes(tmp_path: Path) -> None:
    """GigaPath's 256 px are resized and cropped, of tiles of any size, as its card does with torchvision."""
    from PIL import Image
    from torchvision import transforms  # type: ignore[import-untyped]

    e = encoder("gigapath")
    bicubic = transforms.InterpolationMode.BICUBIC
    card = transforms.Compose(
        [
            transforms.Resize(256, interpolation=bicubic),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    for side in (256, 512, 300):
        pixels = tiles(side, 1)
        theirs = card(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()))
        ours = model_input(pixels, e.preprocessing)[0]
        grey_levels = (ours - theirs).abs() * torch.tensor(e.std)[:, None, None] * 255
        assert grey_levels.max() <= (1.01 if side != 256 else 1e-3)


PROCESSORS: dict[str, Any] = {
    "phikon": transformers.ViTImageProcessor(size={"height": 224, "width": 224}, resample=2),
    "phikon-v2": transformers.BitImageProcessor(size={"shortest_edge": 224}, crop_size=224, resample=3),
    "hibou-b": transformers.BitImageProcessor(size={"shortest_edge": 224}, crop_size=224, resample=3),
    "hibou-l": transformers.BitImageProcessor(size={"shortest_edge": 224}, crop_size=224, resample=3),
    "plip": transformers.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224, resample=3),
    "midnight": transformers.BitImageProcessor(size={"shortest_edge": 224}, crop_size=224, resample=2),
}
"""Of the kind that each repository has; Midnight's card does the same with torchvision."""


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("side", [224, 256, 300])
def test_input_is_what_transformers_processor_makes(name: str, side: int) -> None:
    e, pixels = encoder(name), tiles(side, 1)
    processor = PROCESSORS[name]
    processor.image_mean, processor.image_std = list(e.mean), list(e.std)
    picture = pixels[0].permute(1, 2, 0).numpy()
    theirs = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])[0].float()
    ours = model_input(pixels, e.preprocessing)[0]
    grey_levels = (ours - theirs).abs() * torch.tensor(e.std)[:, None, None] * 255
    # Libraries of one filter differ by its rounding; bilinear and bicubic differ by tens of levels on noise.
    assert grey_levels.max() <= (2.01 if side != 224 else 1e-3)


@pytest.mark.parametrize("pooling", ["cls", "cls+mean", "mean", "tokens"])
def test_pooling_leaves_registers_out(pooling: Any, tmp_path: Path) -> None:
    e = narrow(encoder("virchow2"))
    network = timm_network(e)
    draw(network)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    pixels = tiles(224, 1)
    with torch.inference_mode():
        tokens = network.forward_features(documented_input(e, pixels))
        model = open_encoder(e, tmp_path, pooling=pooling, allow_other_weights=True)
        ours = model.load()(model_input(pixels, e.preprocessing))
    assert tokens.shape == (1, 1 + 4 + 256, 192)
    theirs = tokens[:, 5:] if pooling == "tokens" else pooled(tokens, pooling, 5)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_identity_is_weights_input_and_pooling(tmp_path: Path) -> None:
    e = shallow(encoder("virchow2"))
    marks = {e.fingerprint("a" * 64), e.fingerprint("b" * 64), e.with_pooling("cls").fingerprint("a" * 64)}
    marks.add(replace(e, interpolation="bilinear").fingerprint("a" * 64))
    assert len(marks) == 4
    assert e.fingerprint("a" * 64) == replace(e, note="other words").fingerprint("a" * 64)


def test_pooling_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="its pooling is own"):
        encoder("resnet50").with_pooling("cls")
    with pytest.raises(UsageError, match="pooling must be one of"):
        encoder("uni").with_pooling("attention")  # type: ignore[arg-type]


# weights ---------------------------------------------------------------------------------------------


def tiny(path: Path, name: str = "lunit-dino-s16") -> Encoder:
    """An encoder whose weights, drawn at random, lie in a folder and are the registry's."""
    e = shallow(encoder(name))
    network = timm_network(e)
    draw(network)
    path.mkdir(exist_ok=True)
    file = path / "model.safetensors"
    save_file(network.state_dict(), file)
    known: Encoder = replace(e, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    return known


def test_other_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    e = tiny(tmp_path / "right")
    assert open_encoder(e, tmp_path / "right").spec.fingerprint == e.fingerprint(e.sha256)
    with pytest.raises(UsageError, match=r"not the weights that the registry lists for .*--allow-other-weights"):
        open_encoder(encoder("lunit-dino-s16"), tmp_path / "right" / "model.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    tiny(tmp_path / "small")
    with pytest.raises(StoreError, match="not the weights of virchow2"):
        opened(shallow(encoder("virchow2")), tmp_path / "small").load()
    deeper = replace(encoder("lunit-dino-s16"), arguments={"img_size": 224, "depth": 2})
    with pytest.raises(StoreError, match=r"they lack blocks\.1"):
        opened(deeper, tmp_path / "small").load()
    shallower = replace(encoder("lunit-dino-s16"), arguments={"img_size": 224, "depth": 0})
    with pytest.raises(StoreError, match=r"have no place for blocks\.0"):
        opened(shallower, tmp_path / "small").load()


@pytest.mark.parametrize("e", [e for e in encoders().values() if e.refused], ids=lambda e: e.name)
def test_encoders_with_code_of_their_own_point_to_importing(e: Encoder) -> None:
    with pytest.raises(UsageError, match=rf"encoder {e.name} cannot be run here.*wsivit import .*--encoder {e.name}"):
        open_encoder(e)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file of weights"):
        open_encoder(encoder("uni"), tmp_path / "uni.safetensors")
    with pytest.raises(UsageError, match=r"no model\.safetensors and no pytorch_model\.bin in this folder"):
        open_encoder(encoder("uni"), tmp_path)


# pickles ---------------------------------------------------------------------------------------------


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def hub_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def published_pickle(tmp_path: Path, held: Any) -> tuple[Encoder, Path]:
    file = tmp_path / "pytorch_model.bin"
    torch.save(held, file)
    e = narrow(encoder("uni"))
    return replace(e, sha256=hashlib.sha256(file.read_bytes()).hexdigest()), file


def test_pickle_of_the_registry_is_converted_once(hub_home: Path, tmp_path: Path) -> None:
    network = timm_network(narrow(encoder("uni")))
    draw(network)
    e, file = published_pickle(tmp_path, network.state_dict())
    pixels = tiles(224, 1)
    with torch.inference_mode():
        ours = open_encoder(e, file).load()(model_input(pixels, e.preprocessing))
        torch.testing.assert_close(ours, network.forward_features(documented_input(e, pixels))[:, 0], rtol=0, atol=1e-6)
    converted = hub_home / "wsivit" / f"{e.sha256}.safetensors"
    kept = load_file(converted)
    assert kept.keys() == network.state_dict().keys()
    before = converted.stat().st_mtime_ns
    again = open_encoder(e, file)
    assert converted.stat().st_mtime_ns == before
    assert again.spec.fingerprint == e.fingerprint(e.sha256)
    converted.write_bytes(b"damaged")  # the receipt no longer vouches for it
    open_encoder(e, file).load()
    assert load_file(converted).keys() == kept.keys()


def test_pickle_of_another_checksum_is_never_parsed(hub_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for allow in (False, True):
        with pytest.raises(UsageError, match="a pickle, which can run any program, and not the one that the registry"):
            open_encoder(encoder("uni"), file, allow_other_weights=allow)
    assert not (tmp_path / "ran").exists()
    assert not hub_home.exists()


def test_hostile_pickle_with_the_right_checksum_runs_nothing(hub_home: Path, tmp_path: Path) -> None:
    e, file = published_pickle(tmp_path, {"cls_token": torch.zeros(1), "bomb": Bomb(tmp_path / "ran")})
    with pytest.raises(StoreError, match="cannot be converted: not a file of weights alone"):
        open_encoder(e, file)
    assert not (tmp_path / "ran").exists()
    assert not list((hub_home / "wsivit").iterdir())


def test_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    e, file = published_pickle(tmp_path, {"epoch": 3, "weights": torch.zeros(2)})
    with pytest.raises(SystemExit, match="something else than named tensors"):
        unpickle.main(str(file), e.sha256, str(tmp_path / "made.safetensors"))
    with pytest.raises(SystemExit, match="has changed since its checksum was taken"):
        unpickle.main(str(file), "0" * 64, str(tmp_path / "made.safetensors"))
    assert not (tmp_path / "made.safetensors").exists()


def test_dinov2s_own_names_are_renamed(tmp_path: Path) -> None:
    """OpenMidnight's file has the names of DINOv2's code, and position embeddings for its class token."""
    e = narrow(encoder("openmidnight"))
    network = timm_network(e)
    draw(network)
    theirs = {}
    for name, value in network.state_dict().items():
        new = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3").replace("reg_token", "register_tokens")
        theirs[new] = value
    theirs["mask_token"] = torch.zeros(1, 192)
    of_class = torch.full((1, 1, 192), 0.25)
    theirs["pos_embed"] = torch.cat([of_class, theirs["pos_embed"]], 1)
    theirs["cls_token"] = theirs["cls_token"] - of_class
    save_file(theirs, tmp_path / "model.safetensors")
    pixels = tiles(224, 1)
    with torch.inference_mode():
        ours = opened(e, tmp_path).load()(model_input(pixels, e.preprocessing))
        expected = network.forward_features(documented_input(e, pixels))[:, 0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
