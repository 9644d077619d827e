"""Tiling with care: the slide's checksum, and when to give up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from support.slide_helpers import damage
from support.small_slides import tissue_picture, write_slide

from wsivit.cli.app import main
from wsivit.errors import SlideError, StoreMismatchError, UnreadableTilesError, UsageError
from wsivit.slide import open_slide
from wsivit.slide.identity import sha256
from wsivit.store import Status, TileStore
from wsivit.store.verify import verify
from wsivit.tiling import TileOptions, shard_writer, tile

HOW = {"tile_size": 128, "tissue": "none"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "a slide.tiff", tissue_picture(640, 512))


def test_a_slides_checksum_is_recorded_or_compared_before_tiling(path: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  other.tiff\n{digest} *folder/{path.name}\n")
    done = tile(path, tmp_path, TileOptions(**HOW, sha256="record"))
    assert done.store.parameters.slide_sha256 == digest
    for wanted in (digest.upper(), str(sums), "record", None):
        again = tile(path, tmp_path, TileOptions(**HOW, sha256=wanted))
        assert TileStore(again.store.url).parameters.slide_sha256 == digest
    with pytest.raises(SlideError, match=rf"its sha256 is {digest}, not {'1' * 64}"):
        tile(path, tmp_path / "new", TileOptions(**HOW, sha256="1" * 64))
    assert not (tmp_path / "new").exists()
    for wanted in ("nonsense", str(path.parent)):
        with pytest.raises(UsageError, match="--sha256 takes"):
            tile(path, tmp_path, TileOptions(**HOW, sha256=wanted))
    sums.write_text(f"{digest}  other.tiff\n")
    with pytest.raises(UsageError, match="has no sha256 of a slide"):
        tile(path, tmp_path, TileOptions(**HOW, sha256=str(sums)))


def test_other_bytes_under_the_same_fingerprint_are_another_slide(path: Path, tmp_path: Path) -> None:
    assert tile(path, tmp_path, TileOptions(**HOW)).store.parameters.slide_sha256 == ""
    tile(path, tmp_path, TileOptions(**HOW, sha256="record"))  # made without: nothing to compare with
    done = tile(path, tmp_path, TileOptions(**HOW, sha256="record"), force=True)
    parameters = done.store.parameters
    changed = type(parameters).from_dict({**parameters.to_dict(), "slide_sha256": "2" * 64})
    assert any("slide_sha256" in line for line in parameters.differences(changed))


def test_a_slide_of_several_files_has_the_checksum_of_their_list(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    lines = []
    for name in ("b", "a"):
        (folder / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    assert sha256(str(folder)) == hashlib.sha256("".join(reversed(lines)).encode()).hexdigest()


def test_a_slide_is_given_up_after_too_many_bad_tiles_in_a_row(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in (3, 6, 7, 8, 9):
        damage(path, index, "zeros")
    monkeypatch.setattr(shard_writer, "MAX_CONSECUTIVE_FAILURES", 4)
    with pytest.raises(SlideError, match=r"gave up after 4 unreadable tiles in a row.*no JPEG start marker.*skip-all"):
        tile(path, tmp_path, TileOptions(**HOW))
    with pytest.raises(StoreMismatchError):
        tile(path, tmp_path, TileOptions(**{**HOW, "tile_size": 64}), on_unreadable_tile="skip-all")
    with pytest.raises(UnreadableTilesError, match="tile 3 cannot be read"):
        tile(path, tmp_path, TileOptions(**HOW), on_unreadable_tile="fail", force=True)
    done = tile(path, tmp_path, TileOptions(**HOW), on_unreadable_tile="skip-all")
    assert [i for i, status in enumerate(done.store.status) if status == Status.UNREADABLE] == [3, 6, 7, 8, 9]
    monkeypatch.setattr(shard_writer, "MAX_CONSECUTIVE_FAILURES", 5)
    assert len(tile(path, tmp_path / "b", TileOptions(**HOW)).failures) == 5


def leave_out(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave the pixels 256 to 511 of the first 256 rows out of a slide."""
    rgba = np.dstack([tissue_picture(640, 512), np.full((512, 640), 255, np.uint8)])
    rgba[:256, 256:512, 3] = 0
    if how == "picture":
        Image.fromarray(rgba).save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    if how == "alpha":
        path = path.with_name("alpha.tif")
        tifffile.imwrite(path, rgba, tile=(128, 128), photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    elif how == "openslide":  # as of a MIRAX slide, of which no real one is at hand
        real = openslide.OpenSlide.read_region

        def read_region(slide: Any, place: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
            region = real(slide, place, level, size)
            region.paste(0, (256 - place[0], -place[1], 512 - place[0], 256 - place[1]))
            return region

        monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)
    else:
        for index in (2, 3, 7, 8):
            damage(path, index, "blank")
    return path


@pytest.mark.parametrize("how", ["copied", "decoded", "alpha", "picture", "openslide"])
def test_what_was_never_scanned_has_no_pixels(
    how: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = leave_out(path, how, monkeypatch)
    words = ["--tile-size", "128", "--tissue", "none", "--slide-mpp", "0.5"]
    words += {"decoded": ["--codec", "zstd"], "openslide": ["--reader", "openslide"]}.get(how, [])
    with pytest.raises(SystemExit) as end:
        main(["tile", str(path), "-o", str(tmp_path), "-q", *words])
    assert end.value.code == 0
    assert "4 of them were never scanned and have no pixels" in capsys.readouterr().out
    (made,) = tmp_path.glob("*.zarr")
    store = TileStore(made)
    assert np.flatnonzero(store.status == Status.MISSING).tolist() == [2, 3, 7, 8]
    assert len(store.readable) == len(store) - 4 == 16
    with pytest.raises(UnreadableTilesError, match=r"have no pixels, the first is 3 \(missing\)"):
        store.read([1, 3])
    assert verify(store.url, slide=None if how == "picture" else path) == []
    with open_slide(path, mpp=0.5, reader="openslide" if how == "openslide" else "auto") as slide:
        shown = slide.read(slide.plan(0.5), 256, 0, 256, 256)
    assert (shown == 255).all()
