"""An encoder of the registry as a model: built by its library, with its weights, and pooled as its entry says."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsivit.errors import StoreError, UsageError
from wsivit.models.encoder_weights import EncoderWeights, encoder_weights
from wsivit.models.encoders import Encoder, Pooling
from wsivit.models.network import Network
from wsivit.models.run_folder import Model, ModelSpec
from wsivit.models.weights import MODEL_LOAD_ERRORS, quiet_transformers


def open_encoder(
    encoder: Encoder,
    weights: str | os.PathLike[str] | None = None,
    *,
    pooling: Pooling | None = None,
    allow_other_weights: bool = False,
) -> Model:
    """Open an encoder of the registry.

    Parameters
    ----------
    encoder : Encoder
        From `encoder` or `find_encoder`.
    weights : path, optional
        A file, or a folder in the form of its repository. Default: the hub, at the registry's revision.
    pooling : str, optional
        Default: the encoder's.
    allow_other_weights : bool
        Whether safetensors with another checksum than the registry's will do.

    Raises
    ------
    UsageError
        It cannot be run here, or its weights cannot be had or are not the registry's.
    StoreError
        Its weights are damaged, or of another network.
    """
    encoder = encoder.with_pooling(pooling)
    file = encoder_weights(encoder, weights, allow_other=allow_other_weights)
    spec = ModelSpec(
        name=encoder.column_name,
        model=encoder.name,
        classes=(),
        preprocessing=encoder.preprocessing,
        fingerprint=encoder.fingerprint(file.sha256),
        mpp=encoder.mpp,
        tile_size=encoder.tile_size,
        pooling=encoder.pooling,
        weights_sha256=file.sha256,
        weights_registered=file.registered,
    )
    return Model(spec, lambda: _load(encoder, file))


def _load(encoder: Encoder, file: EncoderWeights) -> Network:
    try:
        weights = load_file(file.path)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{file.path}: cannot be read as safetensors ({error})") from error
    try:
        network = (_timm if encoder.library == "timm" else _transformers)(encoder, weights)
        with torch.inference_mode():
            side = encoder.image_size
            made = network.eval().float()(torch.zeros(1, 3, side, side))
    except MODEL_LOAD_ERRORS as error:
        if isinstance(error, StoreError):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{file.path}: not the weights of {encoder.name}: {first}") from error
    expected = encoder.width(encoder.pooling)
    if made.shape[-1] != expected:
        raise StoreError(f"{file.path}: gives {made.shape[-1]} numbers, {encoder.name} has {expected}")
    return network


class PooledNetwork(Network):
    """A network whose output tokens are pooled to one vector per picture, (n, d); (n, tokens, d) for ``tokens``.

    Parameters
    ----------
    model : nn.Module
        Gives tokens (n, 1 + registers + patches, d), the class token first; the vector itself where pooling is ``own``.
    pooling : {"cls", "cls+mean", "mean", "own", "tokens"}
    registers : int
    """

    def __init__(self, model: nn.Module, pooling: Pooling, registers: int) -> None:
        super().__init__(model, "")
        self.pooling, self.registers = pooling, registers

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the vectors."""
        tokens: Tensor = self.model(pictures)
        cls, patches = tokens[:, 0], tokens[:, 1 + self.registers :]
        if self.pooling == "own":
            return tokens
        if self.pooling == "cls":
            return cls
        if self.pooling == "tokens":
            return patches
        mean = patches.mean(1)
        return mean if self.pooling == "mean" else torch.cat([cls, mean], -1)

    def without_head(self) -> Network:
        """Return the network as it is: an encoder has no last layer to take off."""
        return self


class _Tokens(nn.Module):
    """The tokens of a timm or transformers network after its last norm; what it pools itself where that is wanted."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, pictures: Tensor) -> Tensor:
        if self.output == "forward_features":
            tokens: Tensor = self.model.forward_features(pictures)  # type: ignore[operator]
            return tokens
        made: Any = self.model(pictures)
        result: Tensor = getattr(made, self.output) if self.output else made
        return result


def _timm(encoder: Encoder, weights: dict[str, Tensor]) -> Network:
    import timm
    from timm.layers.mlp import SwiGLUPacked

    known: dict[str, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "ConvStem": _ConvStem}
    arguments = {
        key: known.get(value, value) if isinstance(value, str) else value for key, value in encoder.arguments.items()
    }
    model: Any = timm.create_model(encoder.architecture, pretrained=False, num_classes=0, **arguments)
    # timm's own filter renames what other forms of such weights are called (DINOv2's own, mask tokens, …).
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    weights = weights if rename is None else rename(weights, model)
    head = [key for key in weights if key.split(".")[0] in ("head", "fc", "classifier")]
    _require_same(model.load_state_dict({k: v for k, v in weights.items() if k not in head}, strict=False), encoder)
    tokens = encoder.pooling != "own"
    if tokens and model.num_prefix_tokens != 1 + encoder.registers:
        raise UsageError(f"{encoder.architecture} has {model.num_prefix_tokens - 1} registers, not {encoder.registers}")
    return PooledNetwork(_Tokens(model, "forward_features" if tokens else ""), encoder.pooling, encoder.registers)


def _require_same(result: Any, encoder: Encoder) -> None:
    """Refuse weights that lack a tensor of the network, or have one more."""
    for what, keys in (("lack", result.missing_keys), ("have no place for", result.unexpected_keys)):
        if keys:
            raise StoreError(
                f"not the weights of {encoder.name}: they {what} {', '.join(sorted(keys)[:3])}"
                + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            )


def _transformers(encoder: Encoder, weights: dict[str, Tensor]) -> Network:
    import transformers

    kind: Any = getattr(transformers, encoder.architecture)
    arguments = dict(encoder.arguments)
    # What differs between publications of one architecture is read off the weights, and not guessed.
    if any(".mlp.weights_in." in key for key in weights):
        arguments["use_swiglu_ffn"] = True
    position = next((v for key, v in weights.items() if key.endswith("embeddings.position_embeddings")), None)
    if position is not None:
        side = round((position.shape[1] - 1) ** 0.5)  # of a square of patches, after the class token
        arguments["image_size"] = side * arguments["patch_size"]
    config = kind.config_class(**arguments)
    extra = {"add_pooling_layer": False} if encoder.architecture == "ViTModel" else {}
    with quiet_transformers():
        model, loaded = kind.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=False, **extra
        )
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise StoreError(
            f"not the weights of {encoder.name}: they lack {', '.join(missing[:3])} ({len(missing)} in all)"
        )
    output = "image_embeds" if encoder.pooling == "own" else "last_hidden_state"
    return PooledNetwork(_Tokens(model, output), encoder.pooling, encoder.registers)


class _ConvStem(nn.Module):
    """CTransPath's stem in place of Swin's patches (Wang et al. 2022): two strided convolutions, then one of 1 x 1."""

    def __init__(self, in_chans: int = 3, embed_dim: int = 96, **_: Any) -> None:
        super().__init__()
        self.grid_size = (56, 56)  # of 224 px, which Swin's windows are laid out for
        narrow = embed_dim // 8
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, 2 * narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * narrow, embed_dim, 1),
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (n, h, w, d), as timm's Swin takes it."""
        made: Tensor = self.norm(self.proj(pictures).permute(0, 2, 3, 1))
        return made
