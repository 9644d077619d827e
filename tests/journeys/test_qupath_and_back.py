"""QuPath's annotations to a fine-tuned model, and its regions back into QuPath."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely
from support.journey import QUICK, draw_regions, draw_slide, step

from wsivit.store import TileStore


def test_from_annotations_to_a_model_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b", "new")):
        draw_slide(tmp_path / f"{name}.tiff", seed=seed)
    for name in ("a", "b"):
        draw_regions(tmp_path / f"{name}.geojson")
        done = step(f"wsivit tile {name}.tiff --tile-size 32 --annotations {name}.geojson -o tiles")
        assert "label    region: stroma" in done.out

    # Ctrl-R and a typo: the advice of each message works.
    assert "region" in step(f"wsivit train tiles --label regions --model test_vit {QUICK} -o vit", 2).err
    step(f"wsivit train tiles --label region --model test_vit {QUICK} -o vit")
    assert "test part" not in step(f"wsivit train tiles --label region --model test_vit {QUICK} -o vit", 7).out
    step(f"wsivit train tiles --label region --model test_vit {QUICK} -o vit --force")
    step(f"wsivit train tiles --label region --model test_resnet {QUICK} -o resnet")
    assert "measured" in step("wsivit evaluate vit tiles --device cpu --bootstrap-samples 20").out
    assert "vit" in step("wsivit compare vit resnet --data tiles --device cpu --bootstrap-samples 20").out

    step("wsivit predict vit new.tiff -o direct --device cpu")
    step("wsivit heatmap direct/new.zarr --png new.png --size 300")
    done = step("wsivit export direct/new.zarr regions --threshold 0 -o new-regions.geojson")
    assert "wrote" in done.out
    regions = json.loads((tmp_path / "new-regions.geojson").read_text())
    features = regions["features"] if isinstance(regions, dict) else regions
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    # In level-0 pixels of the slide, as QuPath wants them.
    x0, y0, x1, y1 = shapely.unary_union(shapes).bounds
    assert 0 <= x0 < 128 < 512 < x1 <= 640
    assert 0 <= y0 < 128 < 320 < y1 <= 448

    # And what QuPath would save of them labels tiles again.
    step("wsivit tile new.tiff --tile-size 32 --annotations new-regions.geojson -o corrected")
    assert (TileStore("corrected/new.zarr").label("region").codes >= 0).any()
