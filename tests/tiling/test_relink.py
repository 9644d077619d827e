"""Stores and slides that move: the slide is found by its content, and never another slide read in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide

from wsivit import TileOptions, TileStore, relink, tile, verify
from wsivit.cli.app import main
from wsivit.errors import InputNotFoundError, SlideNotFoundError, StoreMismatchError, UsageError
from wsivit.store import SLIDE_ROOT

HOW = TileOptions(tile_size=128, tissue="none", codec="none")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ``slides/a.tiff`` and ``tiles/a.zarr``, a store of coordinates, with all paths as typed in the folder."""
    root = tmp_path / "project"
    (root / "slides").mkdir(parents=True)
    write_slide(root / "slides" / "a.tiff", tissue_picture(400, 300), mpp=0.5)
    monkeypatch.chdir(root)
    monkeypatch.delenv(SLIDE_ROOT, raising=False)
    tile("slides/a.tiff", "tiles", HOW)
    monkeypatch.chdir(tmp_path)
    return root


def pixels(store: Path) -> np.ndarray:
    return TileStore(store).read(range(2))


def test_a_store_is_used_from_another_folder(project: Path) -> None:
    parameters = TileStore(project / "tiles" / "a.zarr").parameters
    assert parameters.slide_path == str(project / "slides" / "a.tiff")
    assert parameters.slide_relative_path == "../../slides/a.tiff"
    assert pixels(project / "tiles" / "a.zarr").any()


def test_slide_and_store_move_together(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pixels(project / "tiles" / "a.zarr")
    shutil.move(project, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(pixels(Path("tiles/a.zarr")), before)


@pytest.mark.parametrize("place", ["tiles/other name.tiff", "a.tiff"])
def test_a_slide_next_to_the_store_is_found_by_content(project: Path, place: str) -> None:
    before = pixels(project / "tiles" / "a.zarr")
    shutil.move(project / "slides" / "a.tiff", project / place)
    write_slide(project / "tiles" / "a.tiff", 255 - tissue_picture(400, 300), mpp=0.5)  # of its name, but another
    assert np.array_equal(pixels(project / "tiles" / "a.zarr"), before)


def test_a_slide_is_found_below_the_root(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pixels(project / "tiles" / "a.zarr")
    (tmp_path / "archive" / "2024").mkdir(parents=True)
    shutil.move(project / "slides" / "a.tiff", tmp_path / "archive" / "2024" / "renamed.tiff")
    with pytest.raises(SlideNotFoundError, match=r"a\.tiff: there is no such slide.*--slide-root.*wsivit relink"):
        pixels(project / "tiles" / "a.zarr")
    monkeypatch.setenv(SLIDE_ROOT, str(tmp_path / "archive"))
    assert np.array_equal(pixels(project / "tiles" / "a.zarr"), before)


def test_another_slide_in_its_place_is_never_read(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slide(project / "slides" / "a.tiff", 255 - tissue_picture(400, 300), mpp=0.5)
    monkeypatch.setenv(SLIDE_ROOT, str(project))
    with pytest.raises(StoreMismatchError, match="is not the slide"):
        pixels(project / "tiles" / "a.zarr")
    (result,) = relink(project / "tiles" / "a.zarr", project / "slides")
    assert result.slide == ""


def test_many_stores_are_relinked_by_content(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "c"):
        path = write_slide(project / "slides" / f"{name}.tiff", tissue_picture(400, 300, seed=ord(name)), mpp=0.5)
        tile(path, project / "tiles", HOW)
    before = {name: pixels(project / "tiles" / f"{name}.zarr") for name in "abc"}
    new = tmp_path / "archive"
    new.mkdir()
    shutil.move(project / "slides" / "a.tiff", new / "b.tiff")  # names are swapped
    shutil.move(project / "slides" / "b.tiff", new / "a.tiff")
    (project / "slides" / "c.tiff").unlink()
    stores = [str(project / "tiles" / f"{name}.zarr") for name in "abc"]
    with pytest.raises(SystemExit) as done:
        main(["relink", *stores, str(new)])
    assert done.value.code == SlideNotFoundError.exit_code
    out = capsys.readouterr().out
    assert f"{stores[0]}: {new / 'b.tiff'}\n{stores[1]}: {new / 'a.tiff'}\n{stores[2]}: SLIDE NOT FOUND" in out
    assert "2 of 3 stores have their slide" in out
    for name in "ab":
        store = project / "tiles" / f"{name}.zarr"
        assert np.array_equal(pixels(store), before[name])
        assert verify(store, slide=TileStore(store).parameters.slide_path) == []
    results = relink(project / "tiles", new)
    assert [bool(result.slide) for result in results] == [True, True, False]


def test_relinking_changes_nothing_else_of_a_store(project: Path, tmp_path: Path) -> None:
    store = project / "tiles" / "a.zarr"
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"]["someone"] = {"note": "keep"}
    (store / "zarr.json").write_text(json.dumps(document))
    files = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "zarr.json"}
    shutil.move(project / "slides" / "a.tiff", tmp_path / "x.tiff")
    (result,) = relink(store, tmp_path / "x.tiff")
    assert (result.store, result.before) == (str(store), str(project / "slides" / "a.tiff"))
    after = json.loads((store / "zarr.json").read_text())
    assert after["attributes"]["someone"] == {"note": "keep"}
    ours, theirs = (entry["attributes"]["wsivit"] for entry in (after, document))
    assert ours["parameters"].pop("slide_path") == str(tmp_path / "x.tiff")
    assert ours["parameters"].pop("slide_relative_path") == "../../../x.tiff"
    del (
        theirs["parameters"]["slide_path"],
        theirs["parameters"]["slide_relative_path"],
        theirs["checksum"],
        ours["checksum"],
    )
    assert ours == theirs
    assert all(path.read_bytes() == content for path, content in files.items())
    assert verify(store) == []
    # The same command as before finds the store finished.
    assert len(tile(tmp_path / "x.tiff", project / "other", HOW).store) == len(TileStore(store))


def test_wrong_use_of_relink(project: Path, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="there is no such slide or folder"):
        relink(project / "tiles", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="there is no tile store in this folder"):
        relink(project / "slides", project)


def test_the_root_is_an_option_of_every_verb(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SLIDE_ROOT, "")  # restored at the end, whatever main sets
    with pytest.raises(SystemExit) as done:
        main(["verify", str(project / "tiles" / "a.zarr"), "--slide-root", str(tmp_path / "nowhere")])
    assert done.value.code == 2 and "there is no such folder" in capsys.readouterr().err
    (tmp_path / "archive").mkdir()
    shutil.move(project / "slides" / "a.tiff", tmp_path / "archive" / "b.tiff")
    with pytest.raises(SystemExit) as done:
        main(["verify", str(project / "tiles" / "a.zarr"), f"--slide-root={tmp_path / 'archive'}"])
    assert done.value.code == 0
    assert pixels(project / "tiles" / "a.zarr").any()
