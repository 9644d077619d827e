"""Tiles out of focus: found at their own scale, the same however the store is made, and left out where asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from support.small_slides import tissue_picture, write_slide

from wsivit.errors import UsageError
from wsivit.store import StoreWriter
from wsivit.store.verify import verify
from wsivit.tiling import TileOptions, tile

ENCODED = TileOptions(mpp=0.5, tile_size=192)  # no whole number of the slide's own tiles


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a slide of grainy tissue whose right part is out of focus."""
    picture = tissue_picture(2304, 1536).astype(np.float32)
    grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, picture.shape[:2]), 1.2) * 60
    picture = np.where(picture < 240, picture + grain[..., None], picture)
    picture[:, 1536:] = ndimage.gaussian_filter(picture[:, 1536:], (3, 3, 0))
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    return write_slide(tmp_path_factory.mktemp("slide") / "soft.tiff", pixels, tile=128)


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


@pytest.mark.parametrize("tissue", ["auto", "none"])
def test_blur_is_measured_where_tiles_are_decoded(slide: Path, tmp_path: Path, tissue: str) -> None:
    store = tile(slide, tmp_path, TileOptions(mpp=0.5, tile_size=192, tissue=tissue)).store
    blur, inside = store.qc["blur"], (abs(store.y0 - 672) < 250) & (abs(store.x0 - 1056) < 600)
    assert verify(store.path) == [] and blur.dtype == np.float32
    assert (blur[(store.x0 >= 1536) & inside] > 0.5).all()
    assert (blur[(store.x0 + 192 <= 1536) & inside] < 0.3).all()
    assert store.parameters.tissue["blur"] == "tiles-while-tiling"


def test_tiles_out_of_focus_are_left_out_where_asked(slide: Path, tmp_path: Path) -> None:
    every = tile(slide, tmp_path / "every", ENCODED).store
    sharp = tile(slide, tmp_path / "sharp", TileOptions(mpp=0.5, tile_size=192, max_blur=0.5)).store
    keep = every.qc["blur"] <= 0.5
    assert 0 < keep.sum() < len(every)
    assert np.array_equal(every.x0[keep], sharp.x0) and np.array_equal(every.qc["blur"][keep], sharp.qc["blur"])
    copied = tile(slide, tmp_path / "copied", TileOptions(mpp=0.5, tile_size=128, max_blur=0.5)).store
    assert copied.parameters.encoding == "copied" and (copied.qc["blur"] <= 0.5).all()
    assert (copied.x0 < 1536).mean() > 0.9


def test_copied_tiles_are_not_decoded_unasked(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tiling_plan", "shard_writer"):
        monkeypatch.setattr(f"wsivit.tiling.{module}.line_pairs", lambda pixels: pytest.fail("a tile was decoded"))
    store = tile(slide, tmp_path, TileOptions(mpp=0.5, tile_size=128, edge="drop")).store
    assert store.parameters.encoding == "copied" and store.parameters.tissue["blur"] == "overview"
    assert set(store.qc) == {"pen", "blur", "fold", "fat"}


def test_an_interrupted_run_ends_in_the_same_bytes(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsivit.tiling.tiling_plan._shard_tiles", lambda options: 8)
    whole = tile(slide, tmp_path / "whole", ENCODED)
    write, calls = StoreWriter.write_shard, iter(range(3))

    def breaks_off(self: StoreWriter, *arguments: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StoreWriter, "write_shard", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        tile(slide, tmp_path / "again", ENCODED)
    monkeypatch.setattr(StoreWriter, "write_shard", write)
    again = tile(slide, tmp_path / "again", ENCODED)
    assert again.resumed == 3
    assert files_of(again.store.path) == files_of(whole.store.path)


def test_a_limit_that_cannot_be_kept_to_is_refused(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not tell pen; use auto"):
        tile(slide, tmp_path, TileOptions(mpp=0.5, tissue="none", max_pen=0.2))
