"""One slide and no labels: what is it, is the tissue found, and what does a colleague's model say."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.journey import draw_slide, step
from support.train_helpers import make_run

from wsivit.store import TileStore


def test_one_slide_and_no_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_slide(tmp_path / "biopsy.tiff")
    about = step("wsivit info biopsy.tiff").out
    assert "640 x 448 px" in about
    assert "0.5 µm/px" in about

    done = step("wsivit tile biopsy.tiff --mag 20 --tile-size 64")
    assert "preview  biopsy-preview.png" in done.out
    assert (tmp_path / "biopsy-preview.png").read_bytes().startswith(b"\x89PNG")
    tiles = len(TileStore("biopsy.zarr"))
    assert tiles > 20
    assert "nothing to do" in step("wsivit tile biopsy.tiff --mag 20 --tile-size 64").out

    # A wrong turn: a map before there are predictions, and a model that is not there.
    assert "predict" in step("wsivit heatmap biopsy.zarr", 2).err
    assert "no such folder" in step("wsivit predict ./model biopsy.zarr", 2).err

    make_run(tmp_path / "model", tile_size=64)
    assert f"{tiles} tiles predicted as model" in step("wsivit predict model biopsy.zarr --device cpu").out
    step("wsivit heatmap biopsy.zarr --png map.png --size 300")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    step("wsivit export biopsy.zarr csv")
    step("wsivit aggregate biopsy.zarr")
    assert (tmp_path / "slide_scores.csv").read_text().count("\n") == 3
    assert "sound" in step("wsivit verify biopsy.zarr --slide biopsy.tiff").out


def test_a_slide_without_a_scale_is_told_what_works_and_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_slide(tmp_path / "old.tiff", mpp=None)
    assert "--slide-mpp" in step("wsivit tile old.tiff", 5).err
    step("wsivit tile old.tiff --slide-mpp 0.5 --tile-size 64")
    assert TileStore("old.zarr").parameters.slide_mpp == (0.5, 0.5)
