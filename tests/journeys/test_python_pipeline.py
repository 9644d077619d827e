"""A Python pipeline, or a notebook: the verbs as functions, arrays in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.journey import draw_regions, draw_slide

import wsivit


def test_the_verbs_as_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stores = []
    for seed, name in enumerate(("a", "b")):
        slide, regions = draw_slide(tmp_path / f"{name}.tiff", seed=seed), draw_regions(tmp_path / f"{name}.geojson")
        stores.append(wsivit.tile(slide, "tiles", wsivit.TileOptions(tile_size=32), annotations=regions).store)

    with wsivit.open_slide("a.tiff") as slide:
        assert slide.scale.mpp_x == pytest.approx(0.5)
    store = stores[0]
    pixels = store.read(range(4))
    assert pixels.shape == (4, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert set(store.labels) == {"region"}

    options = wsivit.TrainOptions(pretrained=False, image_size=32, epochs=1, batch_size=16, workers=0, device="cpu")
    run = wsivit.train([s.path for s in stores], model="test_vit", label="region", output="run", options=options)
    predictor = wsivit.Predictor(run.folder, options=wsivit.PredictOptions(device="cpu"))
    for each in stores:
        predictor(each)
    scores = wsivit.TileStore(store.path).predictions("run")
    assert scores.classes == ("stroma", "tumor")
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, atol=1e-3)
    assert wsivit.heatmap(store.path, png="map.png", options=wsivit.HeatmapOptions(size=300)).paths

    # A mistake is an exception that the caller would catch, with the words of the command line.
    with pytest.raises(ValueError, match="tile_size must be from 1"):
        wsivit.TileOptions(tile_size=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        wsivit.open_slide("nowhere.svs")


def test_a_study_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_slide(tmp_path / "a.tiff")
    (tmp_path / "study.toml").write_text('slides = "a.tiff"\noutput = "study"\n[tile]\ntile_size = 64\n')
    assert wsivit.run_study("study.toml", dry_run=True).steps[0].verb == "tile"
    assert wsivit.run_study("study.toml").exit_code == 0
    assert len(wsivit.TileStore("study/slides/a.zarr")) > 20
