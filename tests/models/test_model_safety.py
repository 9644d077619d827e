"""Models: nothing that comes with one is run, whatever its files hold."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.train_helpers import make_run, write_store

from wsivit.errors import StoreError, UsageError, WsivitError
from wsivit.inference.predict import predict
from wsivit.models import open_model
from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import load_classifier
from wsivit.models.run_folder import RunMetadata
from wsivit.models.weights import weights_fingerprint
from wsivit.training.train import TrainOptions, train

CLASSES = ("stroma", "tumor")


class Payload:
    """Pickled, it creates a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """What is there once a model's code was run."""
    return tmp_path / "code-was-run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_the_payload_works(tmp_path: Path, proof: Path) -> None:
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Payload(proof)))
    pickle.loads((tmp_path / "w.bin").read_bytes())
    assert proof.exists()


def change_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def write_evil_code(folder: Path, proof: Path) -> None:
    code = f"from pathlib import Path\nPath({str(proof)!r}).touch()\n"
    code += "from transformers import PreTrainedConfig as Evil\n"
    for name in ("configuration_evil.py", "modeling_evil.py", "image_processing_evil.py"):
        (folder / name).write_text(code)


AUTO_MAP = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModelForImageClassification": "modeling_evil.Evil",
    "AutoImageProcessor": "image_processing_evil.Evil",
}
HOSTILE = {
    "code for a known kind": {"auto_map": AUTO_MAP},
    "code for a kind of its own": {"auto_map": AUTO_MAP, "model_type": "evil"},
    "code of another repository": {"auto_map": {"AutoConfig": "evil/repo--configuration_evil.Evil"}},
    "a pipeline": {"custom_pipelines": {"image-classification": {"impl": "modeling_evil.Evil"}}},
    "kernels of the hub": {"attn_implementation": "evil/kernel"},
    "kernels by another name": {"_attn_implementation": "evil/kernel"},
    "experts of the hub": {"experts_implementation": "evil/kernel"},
    "a pickle of timm's": {"model_args": {"checkpoint_path": "RUN/w.pth"}},
    "another model": {"architecture": "hf-hub:evil/model"},
    "another folder": {"architecture": "local-dir:/evil"},
}


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE.keys())
def test_settings_that_would_run_code_are_refused(settings: dict[str, Any], run: Path, proof: Path) -> None:
    torch.save(Payload(proof), run / "w.pth")
    write_evil_code(run, proof)
    change_config(run, **json.loads(json.dumps(settings).replace("RUN", str(run))))
    for use in (load_classifier, lambda folder: create_classifier(str(folder), CLASSES)):
        with pytest.raises(StoreError, match=r"refused, since .*wsivit runs no code"):
            use(run)
    assert not proof.exists()


def test_a_processor_with_code_is_not_run(tmp_path: Path, proof: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path / "hub"
    ViTForImageClassification(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ).save_pretrained(folder)
    write_evil_code(folder, proof)
    hostile = {"auto_map": AUTO_MAP, "image_processor_type": "Evil"}
    (folder / "preprocessor_config.json").write_text(json.dumps(hostile))
    for use in (load_classifier, lambda path: create_classifier(str(path), CLASSES, image_size=32)):
        use(folder)  # its own settings are used instead: a folder without a processor is a model all the same
    with pytest.raises(UsageError, match="its own processor makes it: transformers cannot load it"):
        open_model(folder)  # whose own scores would be wrong
    assert not proof.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "w.pth"])
def test_a_pickle_is_not_read(name: str, run: Path, proof: Path) -> None:
    (run / "model.safetensors").unlink()
    torch.save({"weights": Payload(proof)}, run / name)
    with pytest.raises(StoreError, match=rf"no model\.safetensors.*{name} may hold a pickle"):
        load_classifier(run)
    with pytest.raises(UsageError):
        create_classifier(str(run), CLASSES)
    with pytest.raises(UsageError, match="safetensors files only"):
        create_classifier("test_vit", CLASSES, weights=run / name)
    assert not proof.exists()


def test_a_pickle_by_the_name_of_safetensors_is_refused(run: Path, proof: Path) -> None:
    for data in (pickle.dumps(Payload(proof)), b"", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        (run / "model.safetensors").write_bytes(data)
        with pytest.raises(StoreError, match="cannot be loaded"):
            load_classifier(run)
    torch.save(Payload(proof), run / "model.safetensors")
    with pytest.raises(StoreError, match="cannot be loaded"):
        load_classifier(run)
    with pytest.raises(UsageError, match="safetensors"):
        create_classifier("test_vit", CLASSES, weights=run / "model.safetensors")
    assert not proof.exists()


@pytest.mark.parametrize(
    "config",
    [
        "[]", "{}", '{"model_type": 5}', '{"model_type": "no such"}', '{"model_type": "vit", "hidden_size": "x"}',
        '{"model_type": "timm_wrapper", "architecture": "no_such_net"}',
        '{"model_type": "timm_wrapper", "architecture": ["a"]}', '{"architecture": null, "model_type": "timm_wrapper"}',
        '{"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": {"no_such": 1}}',
        '{"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": "x"}',
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_one_clear_error(config: str, run: Path) -> None:
    (run / "config.json").write_text(config)
    with pytest.raises(WsivitError, match=str(run)):
        load_classifier(run)


def test_exchanged_weights_are_found(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "one", columns=4, rows=2)
    weights = load_file(run / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, run / "model.safetensors")
    with pytest.raises(WsivitError, match="the weights are not those that were trained"):
        predict(run, store.path)
    RunMetadata.read(run)
    replace(RunMetadata.read(run), model_fingerprint=weights_fingerprint(run)).write(run)
    predict(run, store.path)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_hostile_checkpoint_is_not_run(
    name: str, tmp_path: Path, proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path, "one", columns=12, rows=8)
    options = TrainOptions(pretrained=False, image_size=32, epochs=2, batch_size=8, workers=0, device="cpu")
    arguments: dict[str, Any] = {"label": "region", "model": "test_vit", "output": tmp_path / "r", "options": options}

    def stop(self: object, args: object, state: Any, *more: object, **others: object) -> None:
        if state.epoch >= 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wsivit.training.callbacks.Curves.on_epoch_begin", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            train([store.path], **arguments)
    (checkpoint,) = (tmp_path / "r" / "checkpoints").iterdir()
    shutil.copytree(checkpoint, tmp_path / "kept")
    torch.save(Payload(proof), checkpoint / name)
    seal = json.loads((checkpoint / "complete.json").read_text())
    seal[name] = (checkpoint / name).stat().st_size
    (checkpoint / "complete.json").write_text(json.dumps(seal))
    with pytest.raises(StoreError, match=r"checkpoint-\d+.*remove"):
        train([store.path], **arguments)
    assert not proof.exists()
    shutil.rmtree(checkpoint)
    shutil.copytree(tmp_path / "kept", checkpoint)
    assert train([store.path], **arguments).contract.done
