"""One factory of image classifiers for timm and transformers names, with a new head.

Every classifier is a transformers model, timm networks through ``TimmWrapperForImageClassification``: training and its
folder (`classifier_folder`) then know one kind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers.patch_embed import PatchEmbed
from torch import nn

from wsivit.errors import UsageError
from wsivit.models.hub import hub_errors
from wsivit.models.model_input import blank_input
from wsivit.models.model_names import library_of
from wsivit.models.network import Network, of_classifier
from wsivit.models.published_input import native_size, published_preprocessing, timm_input
from wsivit.models.run_folder import Preprocessing
from wsivit.models.timm_networks import timm_network, timm_settings_of
from wsivit.models.weights import non_finite, quiet_transformers, refuse_code, safetensors_file, timm_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Classifier:
    """A transformers image classifier and how its input is made.

    Attributes
    ----------
    model : transformers.PreTrainedModel
    preprocessing : Preprocessing
    """

    model: PreTrainedModel
    preprocessing: Preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        names: Any = self.model.config.id2label
        return tuple(names[i] for i in range(len(names)))

    @property
    def is_timm(self) -> bool:
        """Whether the network is a timm one."""
        return bool(self.model.config.model_type == "timm_wrapper")

    @property
    def network(self) -> Network:
        """The same network, as one that maps pictures to logits."""
        return of_classifier(self.model)

    @property
    def head(self) -> list[nn.Parameter]:
        """The parameters after the backbone: what a linear probe trains."""
        if self.is_timm:
            network: Any = self.model.timm_model
            return list(network.get_classifier().parameters())
        body = {id(p) for p in self.model.base_model.parameters()}
        return [p for p in self.model.parameters() if id(p) not in body]


def create_classifier(
    name: str,
    classes: Sequence[str],
    *,
    pretrained: bool = True,
    image_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> Classifier:
    """Make an image classifier with a new head for these classes.

    Parameters
    ----------
    name : str
        A timm name (``vit_small_patch16_224.augreg_in21k``), a hub id (``microsoft/resnet-50``), or a folder
        with ``config.json`` and ``model.safetensors``.
    classes : sequence of str
        Class names, in the order of the logits.
    pretrained : bool
        Start from the weights that go with the name; False starts from scratch.
    image_size : int, optional
        Side of the input in pixels; position embeddings are interpolated. By default the model's own.
    weights : path, optional
        A ``.safetensors`` file for the architecture, in place of the weights that go with the name.

    Raises
    ------
    UsageError
        The model is unknown, its weights cannot be had, they are not safetensors, or it takes no input of that size.
    """
    require_image_size(name, image_size)
    library, resolved = library_of(name)
    make = _timm_classifier if library == "timm" else _transformers_classifier
    made = make(resolved, classes, pretrained, image_size, weights)
    # Weights of 16 bits would round small steps away, and overflow: training is in float32, whatever the file has.
    made.model.float()
    if image_size is not None and not _takes(made.model, made.preprocessing):
        raise UsageError(f"model {name} does not take input of {image_size} px: leave --image-size out, or try another")
    broken = non_finite(made.model)
    if broken:
        raise UsageError(f"model {name}: {broken}: take other weights to start from")
    return made


def require_image_size(name: str, image_size: int | None) -> None:
    """Reject an input size that the model's patches do not cover, before there are data or weights.

    Where it is not a multiple of the patch, most networks ignore a margin of each picture without a word.

    Raises
    ------
    UsageError
        Naming the nearest sizes; or the model is unknown.
    """
    library, resolved = library_of(name)
    if image_size is None:
        return
    if library == "timm":
        architecture, known, model_args = timm_settings_of(resolved)
        try:
            with torch.device("meta"):  # its layers, without memory for their weights
                network = timm.create_model(architecture, pretrained_cfg=known, **model_args)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return  # made with weights, it says better what is wrong
        cuts = [layer for layer in network.modules() if isinstance(layer, PatchEmbed) and not layer.dynamic_img_pad]
        patches = [cut.patch_size[0] for cut in cuts]
    else:
        from transformers import AutoConfig

        with hub_errors(name), quiet_transformers():
            patch = getattr(AutoConfig.from_pretrained(resolved, trust_remote_code=False), "patch_size", None)
        patches = [patch] if isinstance(patch, int) else []
    for patch in patches:
        if image_size % patch:
            below = image_size // patch * patch
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise UsageError(
                f"model {name} divides its input into patches of {patch} px, and {image_size} px (--image-size) is no "
                f"multiple of that: the nearest sizes are {nearest}"
            )


# timm ------------------------------------------------------------------------------------------------


def _timm_classifier(
    name: str,
    classes: Sequence[str],
    pretrained: bool,
    image_size: int | None,
    weights: str | os.PathLike[str] | None,
) -> Classifier:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    architecture, known, model_args = timm_settings_of(name, image_size)
    model_args.pop("num_classes", None)  # an encoder of the hub says 0 here
    source = timm_weights(name, known, weights) if pretrained or weights else None
    network: Any = timm_network(architecture, known, source, num_classes=len(classes), **model_args)
    preprocessing = timm_input(name, known).of_whole_tile(image_size)
    settings: dict[str, Any] = _label_maps(classes) | {
        "pretrained_cfg": _timm_settings(network.pretrained_cfg, preprocessing)
    }
    config = TimmWrapperConfig(architecture=architecture, model_args=model_args, **settings)
    model = TimmWrapperForImageClassification(config)
    # The wrapper draws every layer anew from one normal distribution; timm knows how each should begin.
    model.timm_model = network
    return Classifier(model, preprocessing)


def _timm_settings(settings: dict[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """What timm and transformers need to use the network; nothing about where its first weights came from."""
    kept = ("fixed_input_size", "pool_size", "first_conv", "classifier", "license")
    size = preprocessing.image_size
    return {key: settings[key] for key in kept if settings.get(key) is not None} | {
        "input_size": [preprocessing.channel_count, size, size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "center",
    }


# transformers ----------------------------------------------------------------------------------------


def _transformers_classifier(
    name: str,
    classes: Sequence[str],
    pretrained: bool,
    image_size: int | None,
    weights: str | os.PathLike[str] | None,
) -> Classifier:
    from transformers import AutoConfig, AutoModelForImageClassification

    with hub_errors(name), quiet_transformers():
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **_label_maps(classes))
        refuse_code(config.to_dict(), name)
        preprocessing = published_preprocessing(name, config, scored=False).of_whole_tile(image_size)
        if not (pretrained or weights) and native_size(config) is not None:
            config.image_size = preprocessing.image_size
        if weights is not None:
            model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
            model = _with_weights(model, safetensors_file(Path(weights)))
        elif pretrained:
            model = AutoModelForImageClassification.from_pretrained(
                name, config=config, use_safetensors=True, ignore_mismatched_sizes=True, trust_remote_code=False
            )
        else:
            model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    if native_size(config) not in (None, preprocessing.image_size) and not _takes(model, preprocessing):
        model = _with_input_size(model, preprocessing.image_size)
    return Classifier(model, preprocessing)


def _with_weights(model: PreTrainedModel, weights: Path) -> PreTrainedModel:
    """Return the same transformers model with the weights of a file, all but those of the head."""
    made: Any = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=load_file(weights),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    loaded: PreTrainedModel = made[0]
    info: dict[str, Any] = made[1]
    missing = sorted(key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}."))
    if missing:
        raise UsageError(f"{weights}: not the weights of a {model.config.model_type}: {missing[0]} is not in it")
    return loaded


def _takes(model: PreTrainedModel, preprocessing: Preprocessing) -> bool:
    """Whether a model takes another input size as it is: some interpolate their position embeddings themselves."""
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(pixel_values=blank_input(preprocessing).to(model.dtype))
    except (RuntimeError, ValueError):
        return False
    finally:
        model.train(training)
    return True


def _with_input_size(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """Return the same transformers ViT for another input size, its position embeddings interpolated."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    config = type(model.config).from_dict(model.config.to_dict() | {"image_size": image_size})
    resized = type(model)(config)
    wanted, state = resized.state_dict(), model.state_dict()
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            if not key.endswith("position_embeddings"):
                raise UsageError(f"{config.model_type} cannot take another input size: {key} depends on it")
            side = image_size // config.patch_size
            prefix = wanted[key].shape[1] - side * side
            state[key] = resample_abs_pos_embed(value, [side, side], num_prefix_tokens=prefix)
    resized.load_state_dict(state)
    return resized


def _label_maps(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
    }
