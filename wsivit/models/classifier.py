"""One factory for timm and transformers names; one folder format out.

Every model is a transformers image classifier, timm networks through ``TimmWrapperForImageClassification``.
Its folder (``config.json``, ``model.safetensors``) opens in transformers, and a timm network's folder also in
``timm.create_model("local-dir:…", pretrained=True)``, with equal logits. Weights are safetensors only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.layers.patch_embed import PatchEmbed
from torch import nn

from wsivit.errors import StoreError, UsageError
from wsivit.io import LocalFiles
from wsivit.models.model_input import PROCESSOR, RESAMPLE, blank_input, processor_input, timm_input
from wsivit.models.model_names import CONFIG, library_of, read_config
from wsivit.models.network import Network, of_classifier
from wsivit.models.run_folder import Preprocessing
from wsivit.models.weights import (
    MODEL_LOAD_ERRORS,
    WEIGHTS,
    hub_errors,
    name_pickles,
    non_finite,
    quiet_transformers,
    refuse_code,
    safetensors_file,
    timm_weights,
    weights_fingerprint,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)


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


def load_classifier(folder: str | os.PathLike[str]) -> Classifier:
    """Load a classifier as it was saved.

    Raises
    ------
    StoreError
        The folder is not a model, or is damaged.
    """
    from transformers import AutoModelForImageClassification

    folder = Path(folder)
    read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise StoreError(f"{folder}: there is no {WEIGHTS} in this model folder{name_pickles(folder)}")
    try:
        with quiet_transformers():
            model = AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except (*MODEL_LOAD_ERRORS, SafetensorError) as error:
        raise StoreError(f"{folder}: the model cannot be loaded: {error}") from error
    return Classifier(model.eval().float(), _saved_preprocessing(folder, model.config))


def save_classifier(classifier: Classifier, folder: str | os.PathLike[str]) -> str:
    """Write a folder that transformers (and timm, for its own) can load; return the weights' fingerprint.

    Raises
    ------
    StoreError
        The weights are not finite; nothing is written.
    """
    broken = non_finite(classifier.model)
    if broken:
        raise StoreError(f"{folder}: the model was not saved: {broken}")
    files = LocalFiles(Path(folder))
    files.write(CONFIG, [_as_json(_saved_config(classifier))])
    if not classifier.is_timm:  # a timm folder says it in config.json, where both libraries look
        files.write(PROCESSOR, [_as_json(_processor_config(classifier.preprocessing))])
    # timm knows its own parameter names only, and transformers adds the wrapper's prefix where it is missing.
    state = {
        key.removeprefix("timm_model."): value.detach().cpu().contiguous()
        for key, value in classifier.model.state_dict().items()
    }
    files.write(WEIGHTS, [save(state, metadata={"format": "pt"})])
    return weights_fingerprint(folder)


def device_for(name: str) -> torch.device:
    """Resolve ``auto``: the first GPU there is, else the CPU.

    Raises
    ------
    UsageError
        If this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # a name alone says nothing of the machine
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here ({first}); auto takes the best there is") from error
    return device


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


def timm_settings_of(name: str, image_size: int | None = None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the architecture of a timm name, its published settings, and the arguments that make it."""
    resolved = timm.models.resolve_model_input_args(name, {"img_size": image_size} if image_size else None)
    architecture, known = resolved.pop("model_name"), resolved.pop("pretrained_cfg")
    return architecture, known, {key: value for key, value in resolved.items() if key != "pretrained_model_args"}


def timm_network(architecture: str, settings: dict[str, Any], source: Path | None, **model_args: Any) -> nn.Module:
    """Make a timm network, with the weights of a file where one is given."""
    overlay = None if source is None else {"file": str(source), "source": "", "custom_load": False}
    try:
        return timm.create_model(
            architecture,
            pretrained=source is not None,
            pretrained_cfg=settings,
            pretrained_cfg_overlay=overlay,
            **model_args,
        )
    except (RuntimeError, ValueError, TypeError, AssertionError, SafetensorError, OSError) as error:
        what = architecture if source is None else f"{architecture} with the weights {source}"
        raise UsageError(f"model {what} cannot be made: {error}") from error


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


def published_preprocessing(name: str, config: Any, *, scored: bool) -> Preprocessing:
    """How a transformers model's input is made; where nothing says it, ImageNet's values, with a warning."""
    native = native_size(config)
    channels = int(getattr(config, "num_channels", 3))
    made = processor_input(name, channels, native, scored=scored)
    if made is not None:
        return made
    _log.warning(
        "model %s comes without a %s that can be read, so nothing says how its input is made: the mean and deviation "
        "of ImageNet are taken, and if it learned from others its scores are WRONG; put in the file of the model that "
        "it was trained from",
        name,
        PROCESSOR,
    )
    if channels == 1:
        return Preprocessing(native or 224, (0.449,), (0.226,), channels="L")  # their means over the channels
    return Preprocessing(native or 224)


def native_size(config: Any) -> int | None:
    """Side of a transformers model's input by its ``config.json``, in pixels; None where it does not say."""
    size = getattr(config, "image_size", None)
    size = size[0] if isinstance(size, list | tuple) else size
    return None if size is None else int(size)


# folders ---------------------------------------------------------------------------------------------


def _saved_config(classifier: Classifier) -> dict[str, Any]:
    config: dict[str, Any] = classifier.model.config.to_dict()
    # Left to transformers, the type of the weights is said only where a checkpoint was written before.
    weights = str(classifier.model.dtype).removeprefix("torch.")
    return config | {"architectures": [type(classifier.model).__name__], "dtype": weights}


def _as_json(settings: dict[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


_BGR: tuple[dict[str, Any], dict[str, Any]] = (
    {},
    {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True, "do_center_crop": False},
)
"""What is said of channels in the order BGR: one processor of transformers knows it."""


def _processor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": preprocessing.image_size, "width": preprocessing.image_size},
        "resample": RESAMPLE[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": preprocessing.scale,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        **_BGR[preprocessing.channels == "BGR"],
    }


def _saved_preprocessing(folder: Path, config: Any) -> Preprocessing:
    if config.model_type == "timm_wrapper":
        return timm_input(str(folder), config.pretrained_cfg)
    return published_preprocessing(str(folder), config, scored=False)


def _label_maps(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
    }
