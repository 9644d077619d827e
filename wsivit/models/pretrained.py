"""Models as they were published, with their own classes: timm names, hub ids, folders."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsivit.errors import UsageError
from wsivit.models.classifier import published_preprocessing, timm_network, timm_settings_of
from wsivit.models.model_input import blank_input
from wsivit.models.model_names import library_of
from wsivit.models.model_spec import Model, ModelSpec
from wsivit.models.network import Network, of_classifier, of_timm
from wsivit.models.published_input import PROCESSOR, timm_input
from wsivit.models.run_folder import Preprocessing
from wsivit.models.safety import refuse_code
from wsivit.models.weights import hub_errors, quiet_transformers, timm_weights


def open_published(name: str) -> Model:
    """Load a published model, with the head that it has.

    Raises
    ------
    UsageError
        The model is unknown, or its weights cannot be had.
    StoreError
        A folder that is no model.
    """
    library, resolved = library_of(name, scratch=False)
    network, classes, preprocessing = (_timm if library == "timm" else _transformers)(resolved)
    fingerprint = _fingerprint(network)  # of the weights in the file's own type
    network.float()
    _try(name, network, preprocessing)
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).resolve().name if Path(name).is_dir() else name.split("/")[-1])
    return Model(ModelSpec(called, name, classes, preprocessing, fingerprint), lambda: network)


def _timm(name: str) -> tuple[Network, tuple[str, ...], Preprocessing]:
    architecture, settings, model_args = timm_settings_of(name)
    network: Any = timm_network(architecture, settings, timm_weights(name, settings, None, scratch=False), **model_args)
    return of_timm(network.eval()), _timm_classes(network), timm_input(name, settings)


def _timm_classes(network: Any) -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    count = int(network.num_classes)
    named = network.pretrained_cfg.get("label_names")
    if named and len(named) == count:
        return tuple(map(str, named))
    subset = infer_imagenet_subset(network) if count else None
    if subset:
        known = ImageNetInfo(subset)
        return tuple(known.index_to_label_name(i) for i in range(count))
    return tuple(f"class_{i}" for i in range(count))


def _transformers(name: str) -> tuple[Network, tuple[str, ...], Preprocessing]:
    from transformers import AutoConfig, AutoModelForImageClassification

    with hub_errors(name, scratch=False), quiet_transformers():
        refuse_code(AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict(), name)
        model, loaded = AutoModelForImageClassification.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
        preprocessing = published_preprocessing(name, model.config, scored=True)
    network = of_classifier(model.eval())
    absent = set(loaded["missing_keys"])
    if any(network.head is None or not key.startswith(f"{network.head}.") for key in absent):
        raise UsageError(f"model {name}: weights are missing: {', '.join(sorted(absent)[:5])}")
    if absent:
        # The head was drawn at random just now: an encoder is what lies before it, and so is its fingerprint.
        return network.without_head(), (), preprocessing
    names = model.config.id2label
    return network, tuple(names[i] for i in range(len(names))), preprocessing


def _try(name: str, network: Network, preprocessing: Preprocessing) -> None:
    """Refuse a model that does not take what its own processor makes, before tiles are read."""
    try:
        with torch.inference_mode():
            network(blank_input(preprocessing))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"model {name}: it does not take the input of {preprocessing.image_size} px that its own processor makes "
            f"({str(error).splitlines()[0]}): its {PROCESSOR} is of another model"
        ) from error


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
