"""A picture is decoded here, in any format whose decoder needs no other program; PostScript is not run."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from subprocess import CalledProcessError

import numpy as np
import pytest
from PIL import Image

from wsivit.data.hub_sets import HubSource
from wsivit.data.image_sources import ImageSource, image_defect
from wsivit.errors import SlideError, UnreadableTilesError, UsageError
from wsivit.io.images import FORMATS, open_picture
from wsivit.slide import open_slide
from wsivit.tissue import read_tissue


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once Ghostscript was run."""
    proof, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n: > {proof}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return proof


def test_postscript_is_not_run_whatever_it_is_called(tmp_path: Path, ran: Path) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.eps")
    for name in ("a.png", "a.jpg", "a.svs"):
        shutil.copy(folder / "a.eps", folder / name)
    for name in ("a.svs", "a.png"):
        with pytest.raises(SlideError, match="no reader reads it"):
            open_slide(folder / name, mpp=0.5)
    assert image_defect(folder / "a.jpg") == "no picture"
    with pytest.raises(UnreadableTilesError):
        ImageSource(folder, ["a.jpg"], 32).read([0])
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["x"])})
    stored = {"image": [{"bytes": (folder / "a.eps").read_bytes(), "path": None}], "label": [0]}
    with pytest.raises(UnreadableTilesError):
        HubSource("a/b", "train", Dataset.from_dict(stored, features=features), "image", 32).read([0])
    with pytest.raises(UsageError, match="neither GeoJSON nor an image"):
        read_tissue(folder / "a.png", (8, 8), (64, 64))
    assert not ran.exists()
    with Image.open(folder / "a.eps") as picture, pytest.raises(CalledProcessError):
        picture.load()
    assert ran.exists(), "or the test shows nothing"


@pytest.mark.parametrize("form", FORMATS)
def test_the_usual_formats_are_read(form: str) -> None:
    file = BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(file, form)
    with open_picture(file) as picture:
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - (200, 100, 50)).max() < 12


def test_a_picture_of_too_many_scans_is_not_decoded(tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 50)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    with open_picture(BytesIO(jpeg)) as picture:
        assert np.abs(np.asarray(picture).astype(int) - (200, 100, 50)).max() < 12
    (tmp_path / "a.jpg").write_bytes(jpeg[:-2] + 5000 * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:])
    with pytest.raises(SlideError, match="a JPEG of 5,0"):
        open_slide(tmp_path / "a.jpg", mpp=0.5)
