"""Tiling with care: the slide's checksum, and when to give up."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from conftest import tissue_picture, write_slide

from tests.slide_helpers import damage
from wsivit.errors import SlideError, StoreMismatchError, UnreadableTilesError, UsageError
from wsivit.slide.fingerprint import sha256
from wsivit.store import Status, TileStore
from wsivit.tiling import TileOptions, fill, tile

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
    done = tile(path, tmp_path, TileOptions(**HOW, sha256="record"), overwrite=True)
    parameters = done.store.parameters
    changed = type(parameters).from_dict({**parameters.to_dict(), "slide_sha256": "2" * 64})
    assert any("slide_sha256" in line for line in parameters.differences(changed))
    old = {name: value for name, value in parameters.to_dict().items() if name != "slide_sha256"}
    assert parameters.differences(type(parameters).from_dict(old)) == []


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
    monkeypatch.setattr(fill, "HOPELESS", 4)
    with pytest.raises(SlideError, match=r"given up after 4 unreadable tiles in a row.*no JPEG start marker.*skip-all"):
        tile(path, tmp_path, TileOptions(**HOW))
    with pytest.raises(StoreMismatchError):
        tile(path, tmp_path, TileOptions(**{**HOW, "tile_size": 64}), on_bad_tile="skip-all")
    with pytest.raises(UnreadableTilesError, match="tile 3 cannot be read"):
        tile(path, tmp_path, TileOptions(**HOW), on_bad_tile="fail", overwrite=True)
    done = tile(path, tmp_path, TileOptions(**HOW), on_bad_tile="skip-all")
    assert [i for i, status in enumerate(done.store.status) if status == Status.UNREADABLE] == [3, 6, 7, 8, 9]
    monkeypatch.setattr(fill, "HOPELESS", 5)
    assert len(tile(path, tmp_path / "b", TileOptions(**HOW)).failures) == 5
