"""Coming from TRIDENT: a folder of slides, its coordinates, and a table with one label for each slide."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from support.journey import QUICK, draw_slide, step
from support.train_helpers import make_run

from wsivit.store import TileStore


def test_a_folder_of_slides_with_slide_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wsi").mkdir()
    names = ["p1", "p2", "p3", "p4"]
    for seed, name in enumerate(names):
        draw_slide(tmp_path / "wsi" / f"{name}.tiff", seed=seed)
    rows = [f"{name}.tiff,{name},{('responder', 'none')[i % 2]}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["slide,patient,response", *rows, ""]))

    # Coordinates of TRIDENT become a store.
    coordinates = np.array([(x, y) for y in range(64, 320, 64) for x in range(64, 512, 64)])
    with h5py.File(tmp_path / "p1_patches.h5", "w") as file:
        file["coords"] = coordinates
        attributes = {"patch_size": 64, "patch_size_level0": 64, "level0_magnification": 20, "target_magnification": 20}
        file["coords"].attrs.update({**attributes, "overlap": 0, "name": "p1"})
    step("wsivit import p1_patches.h5 wsi/p1.tiff -o imported")
    store = TileStore("imported/p1.zarr")
    assert sorted(zip(store.x0.tolist(), store.y0.tolist(), strict=True)) == sorted(map(tuple, coordinates.tolist()))

    # The whole folder: a plan, the tiles, and a second run that does nothing.
    command = "wsivit tile wsi --mag 20 --patch-size 64 -o study"
    assert "4 slides, 4 to do" in step(f"{command} --dry-run").out
    assert not (tmp_path / "study").exists()
    assert "4 done" in step(command).out
    assert "4 slides, 0 to do" in step(command).out
    assert "tile" in step("wsivit status study").out

    # Features of any network, as TRIDENT's H5.
    make_run(tmp_path / "net", tile_size=64)
    step("wsivit features study --encoder ./net --device cpu")
    step("wsivit export study/slides/p1.zarr h5 -o p1.h5")
    with h5py.File(tmp_path / "p1.h5") as file:
        assert len(file["features"]) == len(file["coords"]) == len(TileStore("study/slides/p1.zarr"))

    # Slide labels from the table, patients kept apart, and one score for each slide.
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    stores = ["slide,store,patient,response"] + [
        f"{name},study/slides/{name}.zarr,{line.split(',', 1)[1]}" for name, line in zip(names, lines[1:], strict=True)
    ]
    (tmp_path / "training.csv").write_text("\n".join([*stores, ""]))
    step(f"wsivit train training.csv --label response --model test_vit {QUICK} --holdout 0.5 -o response")
    step("wsivit predict response study --device cpu")
    step("wsivit aggregate study/slides/p1.zarr study/slides/p2.zarr --run response -o scores.csv")
    assert {line.split(",")[0] for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]} == {"p1", "p2"}
