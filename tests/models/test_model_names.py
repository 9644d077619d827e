"""What people call models: old timm names, hub ids with a prefix, folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from wsivit.errors import UsageError
from wsivit.models import open_model
from wsivit.models.classifier import create_classifier
from wsivit.models.model_names import library_of


def test_every_name_that_timm_has_renamed_is_known() -> None:
    for old, new in timm.models.get_deprecated_models().items():
        if new:
            assert library_of(old) == ("timm", new)
        else:
            with pytest.raises(UsageError, match="timm has removed it"):
                library_of(old)


def test_an_old_name_makes_todays_model() -> None:
    assert library_of("vit_base_patch16_224_in21k") == ("timm", "vit_base_patch16_224.augreg_in21k")
    old, new = (create_classifier(name, ["a", "b"], pretrained=False) for name in ("tv_resnet34", "resnet34.tv_in1k"))
    assert old.preprocessing == new.preprocessing
    assert old.model.config.architecture == new.model.config.architecture == "resnet34"


@pytest.mark.parametrize("name", ["timm/test_vit", "hf-hub:timm/test_vit.r160_in1k", "hf_hub:timm/test_vit.r160_in1k"])
def test_timms_own_repositories_are_timm_names(name: str) -> None:
    library, resolved = library_of(name)
    assert (library, resolved.partition(".")[0]) == ("timm", "test_vit")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two repositories, as the hub's client hands out their files."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    (tmp_path / "lab/encoder").mkdir(parents=True)
    save_file(network.state_dict(), tmp_path / "lab/encoder/model.safetensors")
    settings = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "classifier": "head"}
    config = {"architecture": "test_vit", "num_classes": 0, "model_args": {"img_size": 32, "num_classes": 0}}
    (tmp_path / "lab/encoder/config.json").write_text(json.dumps(config | {"pretrained_cfg": settings}))
    (tmp_path / "lab/classifier").mkdir()
    (tmp_path / "lab/classifier/config.json").write_text(json.dumps({"model_type": "vit"}))

    def download(repo_id: str, filename: str, **rest: object) -> str:
        path = tmp_path / repo_id / filename
        if not path.is_file():
            raise OSError(f"no {filename} in {repo_id}")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "hf-hub:", "hf_hub:"])
def test_the_repositorys_config_says_which_library_it_is_for(hub: Path, prefix: str) -> None:
    assert library_of(f"{prefix}lab/encoder") == ("timm", "hf-hub:lab/encoder")
    assert library_of(f"{prefix}lab/classifier") == ("transformers", "lab/classifier")
    with pytest.raises(UsageError, match=r"lab/nothing.*no config\.json"):
        library_of(f"{prefix}lab/nothing")


def test_a_timm_encoder_of_the_hub_is_opened_and_trained(hub: Path) -> None:
    model = open_model("hf-hub:lab/encoder")
    assert model.spec.classes == () and model.spec.preprocessing.image_size == 32
    made = create_classifier("lab/encoder", ["a", "b"])
    theirs = timm.create_model(f"local-dir:{hub / 'lab/encoder'}", pretrained=True)
    assert torch.equal(made.model.timm_model.cls_token, theirs.cls_token)


def test_names_that_are_none_are_refused_with_what_is_alike() -> None:
    for name in ("ResNet50", "resnet-50", "hf-hub:", "a/b/c", "hf-hub:/x"):
        with pytest.raises(UsageError, match="unknown model"):
            library_of(name)
    with pytest.raises(UsageError, match=r"timm has .*resnet50"):
        library_of("ResNet50")
