"""The folder of a classifier, as transformers reads it (and timm, for its own networks): ``config.json``, weights.

It opens in transformers, and a timm network's folder also in ``timm.create_model("local-dir:…", pretrained=True)``,
with equal logits. Weights are safetensors only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save

from wsivit.errors import StoreError
from wsivit.io import LocalFiles
from wsivit.models.classifier import Classifier
from wsivit.models.model_names import CONFIG, read_config
from wsivit.models.published_input import PROCESSOR, RESAMPLE, published_preprocessing, timm_input
from wsivit.models.run_folder import Preprocessing
from wsivit.models.weights import (
    MODEL_LOAD_ERRORS,
    WEIGHTS,
    name_pickles,
    non_finite,
    quiet_transformers,
    weights_fingerprint,
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
