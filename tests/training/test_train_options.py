"""The parts of a training step, each against its closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from transformers import ViTConfig, ViTForImageClassification

from wsivit.errors import UsageError
from wsivit.models.classifier import Classifier, create_classifier
from wsivit.models.run_folder import Preprocessing
from wsivit.training import TrainOptions, arguments, train
from wsivit.training.callbacks import Average, epoch_table
from wsivit.training.optimizer import has_attention, layer_depths, make_optimizer
from wsivit.training.samplers import BalancedSampler
from wsivit.training.trainer import mix_pictures


def hub_vit() -> Classifier:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    return Classifier(ViTForImageClassification(config), Preprocessing(16))


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_each_layer_learns_slower_than_the_next(library: str) -> None:
    made = create_classifier("test_vit", ("a", "b"), pretrained=False) if library == "timm" else hub_vit()
    layers = 6 if library == "timm" else 3
    optimizer = make_optimizer(made, 1.0, 0.05, 0.5)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(made.model.named_parameters())
    assert len(rate) == len(names)
    depths = layer_depths(made)
    assert set(depths) == set(names)
    block = "timm_model.blocks.{}.attn.qkv.weight" if library == "timm" else None
    if block is None:
        query = next(n for n in names if ".0." in n and n.endswith("weight") and names[n].shape == (16, 16))
        block = query.replace(".0.", ".{}.", 1)
    rates = [rate[id(names[block.format(i)])] for i in range(layers)]
    assert np.allclose(np.divide(rates[1:], rates[:-1]), 2)
    head = [rate[id(p)] for p in made.head]
    assert head == [1.0, 1.0] and optimizer.param_groups[0]["lr"] == 1.0
    embedding = next(p for n, p in names.items() if "pos" in n)
    assert rate[id(embedding)] == min(rate.values())


def test_a_device_that_is_missing_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    options = TrainOptions(device="cuda:99", pretrained=False)
    with pytest.raises(UsageError, match=r"device 'cuda:99' cannot be used here .*auto takes the best"):
        train([tmp_path / "missing"], model="test_vit", output=tmp_path / "run", options=options)


def test_a_gpu_that_training_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "device_for", torch.device)  # as on a machine with two
    assert arguments.check_machine(TrainOptions(device="cuda")).type == "cuda"
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=1"):
        arguments.check_machine(TrainOptions(device="cuda:1"))


def test_only_matrices_decay() -> None:
    made = create_classifier("test_resnet", ("a", "b"), pretrained=False)
    optimizer = make_optimizer(made, 1.0, 0.05, 1.0)
    decayed = {p.ndim for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    left = {p.ndim for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert decayed == {2, 4} and left == {1}
    assert len({g["lr"] for g in optimizer.param_groups}) == 1


def test_transformers_are_told_from_convolutions() -> None:
    found = [
        has_attention(create_classifier(n, ("a", "b"), pretrained=False).model) for n in ("test_vit", "test_resnet")
    ]
    assert found == [True, False] and has_attention(hub_vit().model)


@pytest.mark.parametrize("n", [4, 3], ids=["even", "odd"])
@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_mixing_gives_each_class_the_share_of_its_pixels(n: int, mixup: float, cutmix: float) -> None:
    """Pictures of one channel per class: the mean of a channel is the share of the class."""
    mix = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=n)
    labels = torch.arange(n)
    pictures = torch.eye(n)[:, :, None, None].expand(n, n, 16, 16)
    mixed_at_all = 0
    for seed in range(8):
        np.random.seed(seed)  # noqa: NPY002 (timm draws from it)
        mixed, targets = mix_pictures(mix, pictures.clone(), labels)
        assert mixed.shape == pictures.shape and targets.shape == (n, n)
        assert torch.allclose(targets.sum(1), torch.ones(n))
        assert torch.allclose(mixed.mean((2, 3)), targets, atol=1e-5)
        mixed_at_all += int((targets.max(1).values < 0.999).sum())
    assert mixed_at_all > 4


def test_balanced_sampling_draws_classes_alike_and_another_order_each_epoch() -> None:
    codes = np.repeat([0, 1], [900, 100])
    sampler = BalancedSampler(codes, seed=1)
    first = list(sampler)
    assert len(first) == 1000 and abs(codes[first].mean() - 0.5) < 0.06
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_the_average_of_weights_is_the_running_one() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = Average(model, 0.9)
    state = type("State", (), {"global_step": 1000})()
    wanted = 1.0
    for value in (2.0, 5.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.on_step_end(None, state, None)  # type: ignore[arg-type]
        wanted = 0.9 * wanted + 0.1 * value
    average.swap_weights()
    assert model.weight.item() == pytest.approx(wanted)
    average.swap_weights()
    assert model.weight.item() == 5.0


def test_the_log_becomes_one_row_per_epoch() -> None:
    history = [
        {"step": 2, "epoch": 1.0, "loss": 0.5, "learning_rate": 0.1, "grad_norm": 1.0},
        {"step": 2, "epoch": 1.0, "eval_loss": 0.4, "eval_accuracy": 0.9, "eval_runtime": 3.0},
        {"step": 4, "epoch": 2.0, "train_runtime": 9.0},
    ]
    assert epoch_table(history) == [
        {
            "step": 2,
            "epoch": 1.0,
            "train_loss": 0.5,
            "learning_rate": 0.1,
            "tune_loss": 0.4,
            "tune_accuracy": 0.9,
        }
    ]
