"""From a model's name to the model: run folders, published models of timm and transformers, the WSInfer zoo.

torch is imported where it is needed only: the allocator must be set before.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsivit.errors import StoreError, StoreMismatchError, UsageError
from wsivit.models.encoders import find_encoder
from wsivit.models.linear_head import LinearHead
from wsivit.models.run_contract import CONTRACT
from wsivit.models.run_folder import (
    Model,
    ModelSpec,
    PathLike,
    Preprocessing,
    RunMetadata,
    finished_run,
    run_name,
)
from wsivit.models.weights import weights_fingerprint

if TYPE_CHECKING:
    from wsivit.models.network import Network

_CONFIG, _PROGRAM = "config.json", "torchscript_model.pt"


def open_model(model: PathLike, *, trust_torchscript: bool = False, weights: PathLike | None = None) -> Model:
    """Open a model of any origin.

    Parameters
    ----------
    model : path or str
        A run folder of ``wsivit train``; a timm name, a hub id, or a folder with ``config.json`` and
        ``model.safetensors``; a folder with ``config.json`` and ``torchscript_model.pt``.
    trust_torchscript : bool
        Whether the last may be run.
    weights : path, optional
        Of the encoder, where the model is a head on its features. Default: where they were when it was trained, or the
        hub.

    Raises
    ------
    StoreError
        A folder that is no model, or is damaged.
    UsageError
        The model is unknown, cannot be had, is not finished, or is not trusted.
    """
    folder = Path(model)
    if (folder / _PROGRAM).is_file() and not (folder / CONTRACT).is_file():
        return _open_zoo(folder, trusted=trust_torchscript)
    if (folder / CONTRACT).is_file() or (folder.is_dir() and not (folder / _CONFIG).is_file()):
        return open_run(model, finished_run(model), weights)
    # A folder that does not exist is an error at once: no hub is asked for what has its name.
    name = str(model)
    path_like = name.startswith((".", "~", "/")) or name.count("/") > 1 or ("/" in name and folder.parent.is_dir())
    if path_like and not folder.exists():
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else []
        runs = sorted(run.name for run in siblings if (run / CONTRACT).is_file())
        hint = f"; {folder.parent} has {', '.join(runs)}" if runs else ""
        raise UsageError(f"there is no model in {name}: no such folder{hint}")
    return _open_published(name)


def open_run(run: PathLike, contract: RunMetadata, weights: PathLike | None = None) -> Model:
    """Return the model of a run; `weights` are those of its encoder, where it is a head on features."""
    spec, encoder = ModelSpec.of_run(run_name(run), contract), contract.encoder

    def load() -> Network:
        from wsivit.models.classifier_folder import load_classifier
        from wsivit.models.network import of_classifier

        if weights_fingerprint(run) != spec.fingerprint:
            raise StoreMismatchError(f"{run}: the weights are not those that were trained: their fingerprint differs")
        return of_classifier(load_classifier(run).model)

    if not encoder:
        return Model(spec, load)
    if weights_fingerprint(run) != spec.fingerprint:
        raise StoreMismatchError(f"{run}: the head is not the one that was trained: its fingerprint differs")
    head = LinearHead.read(Path(run), encoder["fingerprint"], encoder["column"])

    def load_with_encoder() -> Network:
        from wsivit.models.network import with_head

        opened = open_features(encoder["name"], weights or encoder["weights"], encoder["pooling"] or None)
        if opened.spec.fingerprint != head.encoder:
            raise StoreMismatchError(
                f"{run}: its head learned from features of {encoder['name']} with other weights, another input or "
                f"another pooling than those opened now (fingerprint {head.encoder[:19]}…, "
                f"now {opened.spec.fingerprint[:19]}…); give the encoder's file as --weights"
            )
        return with_head(opened.load(), head)

    return Model(spec, load_with_encoder, head)


def open_features(name: str, weights: PathLike | None, pooling: Any) -> Model:
    """Open what made a column of features: an encoder of the registry, or another network before its last layer."""
    from wsivit.models.open_encoder import open_encoder

    known = find_encoder(name)
    # Whoever asks compares fingerprints, which other weights change.
    return open_encoder(known, weights, pooling=pooling, allow_other_weights=True) if known else open_model(name)


# Published models ------------------------------------------------------------------------------------


def _open_published(name: str) -> Model:
    """Load a published model with the head that it has, and try it on a blank picture."""
    import torch

    from wsivit.models.model_input import blank_input
    from wsivit.models.model_names import library_of
    from wsivit.models.published_input import PROCESSOR

    library, resolved = library_of(name, scratch=False)
    network, classes, preprocessing = (_timm if library == "timm" else _transformers)(resolved)
    # The fingerprint is of the weights in the file's own type, and of those that are used only.
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    network.float()
    try:
        with torch.inference_mode():
            network(blank_input(preprocessing))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"model {name}: it does not take the input of {preprocessing.image_size} px that its own processor makes "
            f"({str(error).splitlines()[0]}): its {PROCESSOR} is of another model"
        ) from error
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).resolve().name if Path(name).is_dir() else name.split("/")[-1])
    spec = ModelSpec(called, name, classes, preprocessing, f"sha256:{digest.hexdigest()}")
    return Model(spec, lambda: network)


def _timm(name: str) -> tuple[Network, tuple[str, ...], Preprocessing]:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    from wsivit.models.network import of_timm
    from wsivit.models.published_input import timm_input
    from wsivit.models.timm_networks import timm_network, timm_settings_of
    from wsivit.models.weights import timm_weights

    architecture, settings, model_args = timm_settings_of(name)
    network: Any = timm_network(architecture, settings, timm_weights(name, settings, None, scratch=False), **model_args)
    count = int(network.num_classes)
    named = network.pretrained_cfg.get("label_names")
    subset = infer_imagenet_subset(network) if count else None
    if named and len(named) == count:
        classes = tuple(map(str, named))
    elif subset:
        known = ImageNetInfo(subset)
        classes = tuple(known.index_to_label_name(i) for i in range(count))
    else:
        classes = tuple(f"class_{i}" for i in range(count))
    return of_timm(network.eval()), classes, timm_input(name, settings)


def _transformers(name: str) -> tuple[Network, tuple[str, ...], Preprocessing]:
    from transformers import AutoConfig, AutoModelForImageClassification

    from wsivit.models.hub import hub_errors
    from wsivit.models.network import of_classifier
    from wsivit.models.published_input import published_preprocessing
    from wsivit.models.weights import quiet_transformers, refuse_code

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


# TorchScript, with a config.json as the WSInfer model zoo has it ---------------------------------------


def _open_zoo(folder: Path, *, trusted: bool) -> Model:
    if not trusted:
        raise UsageError(
            f"{folder}: a TorchScript model is a program, which could do anything; if you know who made it, "
            "run it with --trust-torchscript"
        )
    with (folder / _PROGRAM).open("rb") as file:
        fingerprint = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        side = int(config["patch_size_pixels"])
        spec = ModelSpec(
            name=run_name(folder),
            model=str(config.get("architecture") or config.get("name") or "torchscript"),
            classes=tuple(map(str, config["class_names"])),
            preprocessing=_zoo_input(config["transform"], side),
            fingerprint=fingerprint,
            mpp=float(config["spacing_um_px"]),
            tile_size=side,
        )
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not the description of a model as the WSInfer zoo has it: {error!r}") from error

    def load() -> Network:
        import torch

        from wsivit.models.network import Network

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and what people share
                program = torch.jit.load(folder / _PROGRAM, map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            raise StoreError(f"{folder / _PROGRAM}: cannot be loaded: {str(error).splitlines()[0]}") from error
        return Network(program, None)

    return Model(spec, load)


def _zoo_input(steps: list[dict[str, Any]], side: int) -> Preprocessing:
    """Read the list of transforms: resize, to tensor, normalise."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    for step in steps:
        given = step.get("arguments") or {}
        if step["name"] == "Resize":
            size = given["size"]
            side = int(size if isinstance(size, int) else size[0])
        elif step["name"] == "Normalize":
            mean, std = tuple(given["mean"]), tuple(given["std"])
        elif step["name"] != "ToTensor":
            raise StoreError(f"transform {step['name']!r} is not known; Resize, ToTensor and Normalize are")
    return Preprocessing(side, mean, std)
