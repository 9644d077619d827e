"""Tiles that coarse levels of vendors' own TIFFs leave out: filled, or reported as unreadable; never white."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.odd_tiff import shrink
from support.slide_helpers import texture
from support.vendor_tiff import TILE, write_leica, write_philips, write_ventana

import wsivit
from tests.slide.test_holes import leave_out
from wsivit import TileOptions, open_slide
from wsivit.errors import UnreadableTilesError
from wsivit.store import Status

PICTURE = texture(1400, 1100, 1, 0)
LEVELS = [PICTURE, shrink(PICTURE, 2), shrink(PICTURE, 4)]
MISSING = [7, 8]  # of level 1, which has 6 columns


def half_scale(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        x, y, *_ = slide.bounds
        assert slide.scale.mpp_x == 0.5
        return slide.read(slide.plan(1.0), x // 2, y // 2, 700, 550).astype(int)


@pytest.mark.parametrize(("name", "write"), [("p.tiff", write_philips), ("v.bif", write_ventana)])
def test_philips_and_ventana_are_filled(tmp_path: Path, name: str, write) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / name, LEVELS, 0.5)
    whole = half_scale(path)
    assert np.abs(whole - LEVELS[1]).mean() < 3
    leave_out(path, 1, MISSING)
    holed = half_scale(path)
    assert np.abs(holed - LEVELS[1]).mean() < 3
    assert (holed != whole).any(axis=2)[TILE : 2 * TILE, TILE : 3 * TILE].mean() > 0.1
    with open_slide(path) as slide:
        assert slide.format in ("philips", "ventana") and slide.info().filled_tiles == (0, 2, 0)
        done = wsivit.tile(slide, tmp_path / "s", TileOptions(mpp=1.0, tile_size=TILE, tissue="none"))
    assert set(done.store.status) <= {Status.OK, Status.PADDED}
    assert done.store.parameters.filled == 2


def test_leica_tiles_that_are_left_out_are_unreadable(tmp_path: Path) -> None:
    """OpenSlide lays areas over a plane of their own: the tile is reported, and the overview reads the finer level."""
    path = write_leica(tmp_path / "l.scn", LEVELS, 0.5)
    assert np.abs(half_scale(path) - LEVELS[1]).mean() < 3
    leave_out(path, 1, MISSING)
    with pytest.raises(UnreadableTilesError, match="level 1"):
        half_scale(path)
    with open_slide(path) as slide:
        seen = slide.overview(1.0).astype(int)[500:1050, 1000:1700]
        done = wsivit.tile(slide, tmp_path / "s", TileOptions(mpp=1.0, tile_size=TILE, tissue="none"))
    assert np.abs(seen - LEVELS[1]).mean() < 3
    assert 0 < np.count_nonzero(done.store.status == Status.UNREADABLE) < 20


def test_ndpi_stripes_that_are_left_out(tmp_path: Path, real_slide: Callable[[str], Path]) -> None:
    path, sound = tmp_path / "n.ndpi", real_slide("test3-TRITC-2-560.ndpi")
    shutil.copyfile(sound, path)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[1].tags[65426]  # type: ignore[union-attr]  # where each stripe begins
    with path.open("r+b") as file:
        file.seek(tag.valueoffset)
        starts = list(struct.unpack(f"<{tag.count}I", file.read(4 * tag.count)))
        starts[100:140] = [starts[140]] * 40
        file.seek(tag.valueoffset)
        file.write(struct.pack(f"<{tag.count}I", *starts))
    region = (0, 800, 1984, 320)
    with open_slide(sound) as slide:
        whole = slide.read(slide.plan(slide.scale.mpp_x * 2), *region).astype(int)
    with open_slide(path, reader="native") as slide:
        assert slide.info().filled_tiles[1] == 2
        seen = slide.read(slide.plan(slide.scale.mpp_x * 2), *region).astype(int)
    assert np.abs(seen - whole).mean() < 1 < whole.std()
    with open_slide(path, reader="openslide") as slide, pytest.raises(UnreadableTilesError, match="level 1"):
        slide.read(slide.plan(slide.scale.mpp_x * 2), *region)
