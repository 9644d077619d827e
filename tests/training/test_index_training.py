"""A model is trained and measured over an index of stores: few are open, and each training tile is visited once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from support.train_helpers import write_store

import wsivit
from wsivit import TrainOptions, train
from wsivit.data.loading import load_samples
from wsivit.data.shard_shuffle import OrderOptions
from wsivit.evaluation import evaluate
from wsivit.training.trainer import ShardSampler

index_module = import_module("wsivit.data.index")  # `wsivit.data.index` is the verb


def test_training_over_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["slide_id,store,patient,split"]
    for k, side in enumerate(("train", "train", "val", "test")):
        write_store(tmp_path, f"s{k}", columns=12, rows=6, seed=k)
        lines.append(f"s{k},s{k}.zarr,p{k},{side}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    wsivit.index([tmp_path / "cohort.csv"], tmp_path / "index.parquet", label="region")
    visits: list[int] = []
    iterate = ShardSampler.__iter__
    monkeypatch.setattr(ShardSampler, "__iter__", lambda self: (visits.append(i) or i for i in iterate(self)))
    options = TrainOptions(pretrained=False, image_size=48, epochs=2, batch_size=16, lr=2e-3, workers=0, device="cpu")
    done = train([tmp_path / "index.parquet"], model="test_vit", output=tmp_path / "run", options=options)
    assert done.contract.split["by"] == "official"
    assert done.contract.label == "region"
    learned = sum(done.counts["train"].values())
    assert learned == 2 * (12 * 6 - 2)
    assert sorted(visits[:learned]) == list(range(learned))
    assert visits[:learned] != visits[learned : 2 * learned]
    measured = evaluate(done.folder, [tmp_path / "index.parquet"], output=tmp_path / "measured")
    assert measured.n > 0
    assert index_module.open_store.cache_info().currsize <= index_module.OPEN_STORES


def test_a_sampler_is_as_long_as_its_order(tmp_path: Path) -> None:
    write_store(tmp_path, "s0", columns=6, rows=4)
    wsivit.index([tmp_path / "s0.zarr"], tmp_path / "index.parquet", label="region")
    samples = load_samples([tmp_path / "index.parquet"])
    sampler = ShardSampler(samples, 0, OrderOptions(4, balanced=True))
    first = list(sampler)
    assert len(first) == len(sampler) == len(samples)
    sampler.set_epoch(1)
    assert list(sampler) != first
