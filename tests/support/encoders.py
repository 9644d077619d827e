"""Networks of the registry's encoders, one block deep, with random weights, made by their own libraries."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn

from wsivit.models import Encoder, model_input, open_encoder

ARGUMENTS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}


def shallow(e: Encoder) -> Encoder:
    """The same network, one block deep."""
    if e.library == "transformers":
        return replace(e, arguments=e.arguments | {"num_hidden_layers": 1})
    return replace(e, arguments=e.arguments | ({"depth": 1} if e.architecture.startswith("vit") else {}))


def narrow(e: Encoder) -> Encoder:
    """A ViT of timm, one block deep and 192 wide: quick, where its size does not matter."""
    dim = 384 if e.pooling == "cls+mean" else 192
    return replace(shallow(e), dim=dim, arguments=shallow(e).arguments | {"embed_dim": 192, "num_heads": 3})


def pooled(tokens: Tensor, pooling: str, prefix: int) -> Tensor:
    cls, mean = tokens[:, 0], tokens[:, prefix:].mean(1)
    return {"cls": cls, "mean": mean, "cls+mean": torch.cat([cls, mean], 1)}[pooling]


def timm_network(e: Encoder) -> Any:
    if e.name == "ctranspath":
        return None
    known: Any = {k: ARGUMENTS.get(v, v) if isinstance(v, str) else v for k, v in e.arguments.items()}
    return timm.create_model(e.architecture, num_classes=0, **known).eval()


def draw(network: nn.Module) -> None:
    """Give every tensor a random value: what a library leaves at zero or one would hide a mistake."""
    generator = torch.Generator().manual_seed(7)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05 + (1 if "running_var" in name else 0.01))


def tiles(side: int, count: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (count, 3, side, side), np.uint8))


def documented_input(e: Encoder, pixels: Tensor) -> Tensor:
    """What the card says to do: to 0-1, centre crop, mean and deviation. Tiles have the size that needs no resizing."""
    margin = (pixels.shape[-1] - e.image_size) // 2
    cropped = pixels[..., margin : margin + e.image_size, margin : margin + e.image_size].float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (e.mean, e.std))
    return (cropped - mean) / std


PUBLISHED = {
    "midnight": {"use_swiglu_ffn": True, "image_size": 518},
    "hibou-l": {"use_swiglu_ffn": True, "image_size": 224},
}
"""What differs between publications of one transformers architecture."""


def library_network(e: Encoder) -> Any:
    """The network that the encoder's own library builds, with random weights."""
    if e.library == "timm":
        network = timm_network(e)
    else:
        kind: Any = getattr(transformers, e.architecture)
        network = kind(kind.config_class(**({"image_size": 224} | e.arguments | PUBLISHED.get(e.name, {})))).eval()
    draw(network)
    return network


def publish(e: Encoder, network: Any, folder: Path) -> Encoder:
    """Write weights in the form of the encoder's repository; return the encoder whose registered weights they are."""
    if e.library == "transformers":
        network.save_pretrained(folder)
        file = folder / "model.safetensors"
    elif e.pickle:
        file = folder / e.file
        torch.save(network.state_dict(), file)
    else:
        file = folder / "model.safetensors"
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    return replace(e, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def assert_is_librarys_own(e: Encoder, folder: Path) -> None:
    """One block deep, with random weights in the form of its repository: opened here, it is its library's forward."""
    e = shallow(e)
    network = library_network(e)
    e = publish(e, network, folder)
    pixels = tiles(e.tile_size)
    with torch.inference_mode():
        theirs_in = documented_input(e, pixels)
        if e.library == "transformers":
            made = network(theirs_in)
            theirs = (
                made.image_embeds if e.pooling == "own" else pooled(made.last_hidden_state, e.pooling, 1 + e.registers)
            )
        elif e.pooling == "own":
            theirs = network(theirs_in)
        else:
            assert network.num_prefix_tokens == 1 + e.registers
            theirs = pooled(network.forward_features(theirs_in), e.pooling, 1 + e.registers)
        model = open_encoder(e, folder)
        ours = model.load()(model_input(pixels, e.preprocessing))
    assert ours.shape == (2, e.dim)
    assert model.spec.weights_registered
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
