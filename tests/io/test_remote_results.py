"""From slide to heatmap with everything at URLs."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run

from wsivit import TileStore, aggregate, export, heatmap, predict, tile, verify
from wsivit.tiling import TileOptions


def test_predictions_and_pictures_at_urls(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(600, 500))
    memory.put(str(slide), "/results/s.tiff")
    run = make_run(tmp_path / "run")
    options = TileOptions(tile_size=48, tissue="none")
    near, far = (tile(slide, folder, options).store for folder in (tmp_path, "memory://results"))
    of_near = predict(run, near).predictions("run").probabilities
    predicted = predict(run, "memory://results/s.zarr")
    np.testing.assert_array_equal(predicted.predictions("run").probabilities, of_near)
    assert verify("memory://results/s.zarr") == []
    direct = predict(run, "memory://results/s.tiff", output="memory://results/direct")
    assert direct.url == "memory://results/direct/s.zarr"
    assert TileStore(direct.url).runs == ["run"]
    made = heatmap(far.url, formats=("png", "geojson", "ome-zarr"), output="memory://results/maps")
    ours = heatmap(near, formats=("png", "geojson"), output=tmp_path / "maps")
    assert memory.cat_file(str(made.files["geojson"])) == Path(ours.files["geojson"]).read_bytes()
    assert str(made.png).startswith("memory://results/maps/s-run")
    assert memory.cat_file(str(made.png))[:4] == b"\x89PNG"
    assert memory.exists(f"{made.files['ome-zarr']}/zarr.json")
    assert export(far.url, "csv", "memory://results/") == "memory://results/s-run.csv"
    assert b"prob_tumor" in memory.cat_file("/results/s-run.csv")
    assert aggregate([far.url], "memory://results/scores.csv") == "memory://results/scores.csv"
    assert Path(export(far.url, "csv", tmp_path / "here.csv")).read_bytes() == memory.cat_file("/results/s-run.csv")
    memory.rm("/results", recursive=True)
