"""One factory for timm and transformers names; one folder format out.

Every model is a transformers image classifier, timm networks through ``TimmWrapperForImageClassification``.
Its folder (``config.json``, ``model.safetensors``) opens in transformers, and a timm network's folder also in
``timm.create_model("local-dir:…", pretrained=True)``, with equal logits. Weights are safetensors only.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wsivit.errors import StoreError, UsageError
from wsivit.io import LocalFiles
from wsivit.models.run_folder import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from wsivit.models.safety import MODEL_LOAD_ERRORS, pickles_there, refuse_code, safetensors_file
from wsivit.models.weights import WEIGHTS, hub_errors, quiet_transformers, timm_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


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
        The model is unknown, its weights cannot be had, or they are not safetensors.
    """
    library, resolved = library_of(name)
    if library == "timm":
        return _timm_classifier(resolved, classes, pretrained, image_size, weights)
    return _transformers_classifier(resolved, classes, pretrained, image_size, weights)


def library_of(name: str) -> tuple[Literal["timm", "transformers"], str]:
    """Tell which library knows a model, and what it calls it.

    Raises
    ------
    UsageError
        None does.
    StoreError
        A folder that is no model.
    """
    folder = Path(name)
    if folder.is_dir():
        return ("timm", f"local-dir:{folder}") if "architecture" in _read_config(folder) else ("transformers", name)
    name = name.removeprefix("timm/")
    if timm.is_model(name.partition(".")[0]):
        return "timm", name
    if name.count("/") != 1:
        raise UsageError(_unknown(name))
    return "transformers", name


def load_classifier(folder: str | os.PathLike[str]) -> Classifier:
    """Load a classifier as it was saved.

    Raises
    ------
    StoreError
        The folder is not a model, or is damaged.
    """
    from transformers import AutoModelForImageClassification

    folder = Path(folder)
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise StoreError(f"{folder}: there is no {WEIGHTS} in this model folder{pickles_there(folder)}")
    try:
        with quiet_transformers():
            model = AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except (*MODEL_LOAD_ERRORS, SafetensorError) as error:
        raise StoreError(f"{folder}: the model cannot be loaded: {error}") from error
    return Classifier(model.eval(), _saved_preprocessing(folder, config))


def save_classifier(classifier: Classifier, folder: str | os.PathLike[str]) -> str:
    """Write a folder that transformers (and timm, for its own) can load; return the weights' fingerprint."""
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


def weights_fingerprint(folder: str | os.PathLike[str]) -> str:
    """Return ``sha256:<hex>`` of the folder's weights."""
    with (Path(folder) / WEIGHTS).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def device_for(name: str) -> torch.device:
    """Resolve ``auto``: the first GPU there is, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")


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
    source = timm_weights(name, known, weights) if pretrained or weights else None
    network: Any = timm_network(architecture, known, source, num_classes=len(classes), **model_args)
    preprocessing = Preprocessing(image_size or int(known["input_size"][-1]), tuple(known["mean"]), tuple(known["std"]))
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
        "input_size": [3, size, size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": "bilinear",
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
        native = getattr(config, "image_size", None)
        if not (pretrained or weights) and native is not None:
            config.image_size = native = image_size or native
        if weights is not None:
            model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
            model = _with_weights(model, safetensors_file(Path(weights)))
        elif pretrained:
            model = AutoModelForImageClassification.from_pretrained(
                name, config=config, use_safetensors=True, ignore_mismatched_sizes=True, trust_remote_code=False
            )
        else:
            model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        preprocessing = published_preprocessing(name, image_size, native)
    if native is not None and preprocessing.image_size != native:
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


def published_preprocessing(name: str, image_size: int | None, native: int | None) -> Preprocessing:
    """Read how a transformers model's input is made."""
    from transformers import AutoImageProcessor

    try:
        saved = AutoImageProcessor.from_pretrained(name, trust_remote_code=False).to_dict()
    except (OSError, ValueError):  # a folder without a processor is a model all the same
        saved = {}
    size = saved.get("size") or {}
    side = image_size or native or size.get("height") or size.get("shortest_edge") or 224
    return Preprocessing(
        int(side),
        tuple(saved.get("image_mean") or IMAGENET_MEAN),
        tuple(saved.get("image_std") or IMAGENET_STD),
    )


# folders ---------------------------------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: not a model folder: {CONFIG} is missing or unreadable") from error
    if not isinstance(config, dict):
        raise StoreError(f"{folder}: not a model folder: {CONFIG} holds no settings")
    refuse_code(config, str(folder))
    return config


def _saved_config(classifier: Classifier) -> dict[str, Any]:
    config: dict[str, Any] = classifier.model.config.to_dict()
    # Left to transformers, the type of the weights is said only where a checkpoint was written before.
    weights = str(classifier.model.dtype).removeprefix("torch.")
    return config | {"architectures": [type(classifier.model).__name__], "dtype": weights}


def _as_json(settings: dict[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


def _processor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": preprocessing.image_size, "width": preprocessing.image_size},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def _saved_preprocessing(folder: Path, config: dict[str, Any]) -> Preprocessing:
    timm_settings = config.get("pretrained_cfg")
    if timm_settings:
        size = timm_settings["input_size"][-1]
        return Preprocessing(int(size), tuple(timm_settings["mean"]), tuple(timm_settings["std"]))
    return published_preprocessing(str(folder), None, config.get("image_size"))


def _label_maps(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
    }


# errors ----------------------------------------------------------------------------------------------


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), 3)
    hint = f"; timm has {', '.join(close)}" if close else ""
    return f"unknown model {name!r}: not a timm name, a hub id (owner/name) or a folder{hint}"
