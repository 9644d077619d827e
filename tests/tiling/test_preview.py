"""The preview is written, shows what it should, and says so when it cannot be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.small_slides import tissue_picture

from wsivit.errors import OutputError
from wsivit.slide.grid import TileGrid
from wsivit.tiling.preview import _count_lines, write_preview
from wsivit.tissue import Tissue, TissueClass

SIZE = (6400, 4800)
GRID = TileGrid(512, 0, *SIZE, 1.0, 1.0)


def draw(path: Path, classes: np.ndarray | None = None) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    col, row = GRID.cells()
    picture = np.full((300, 400, 3), 240, np.uint8)
    write_preview(path, picture, Tissue(mask, classes), GRID, col[:20], row[:20], slide_size=SIZE, mpp=(0.5, 0.5))
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture - colour).max(axis=2) < 12).sum())


def test_shows_tiles_outline_and_classes(tmp_path: Path) -> None:
    plain = draw(tmp_path / "plain.png")
    assert max(plain.shape) > 1500
    assert count(plain, (0, 114, 178)) > 1000, "tile edges"
    classes = np.zeros((60, 80), np.uint8)
    classes[:, :10] = TissueClass.PEN
    with_pen = draw(tmp_path / "pen.png", classes)
    pen = np.rint(0.55 * np.array([230, 159, 0]) + 0.45 * 240)
    assert count(with_pen, tuple(pen)) > 20 * max(1, count(plain, tuple(pen)))


def test_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*preview"):
        draw(tmp_path / "file" / "preview.png")


def test_an_interrupt_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_picture: Image.Image, path: Path, **_how: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "preview.png")
    assert list(tmp_path.iterdir()) == []


def test_no_tile_and_no_tissue_is_a_picture_too(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    nothing = Tissue(np.zeros((10, 10), bool))
    write_preview(path, tissue_picture(64, 64), nothing, GRID, [], [], slide_size=SIZE, mpp=None)
    with Image.open(path) as picture:
        assert picture.size[0] > 100


def test_lines_of_tiles_are_those_of_rectangles_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 20, (40, 2))], axis=1)
    expected = np.zeros((48, 56), int)
    for box in boxes.tolist():
        one = Image.new("L", (56, 48))
        ImageDraw.Draw(one).rectangle(box, outline=1)
        expected += np.asarray(one)
    assert np.array_equal(_count_lines(boxes, (48, 56)), expected)
