"""The preview is written, shows what it should, and says so when it cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image, ImageColor, ImageDraw
from support.small_slides import tissue_picture

from wsivit.errors import OutputError
from wsivit.slide.grid import TileGrid
from wsivit.tiling.annotations import Annotation
from wsivit.tiling.preview import ANNOTATIONS, ON_BLACK, OUTLINE, RIM, TILES, _count_lines, write_preview
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
    assert count(plain, (0, 107, 60)) > 1000, "tile edges"
    classes = np.zeros((60, 80), np.uint8)
    classes[:, :10] = TissueClass.PEN
    with_pen = draw(tmp_path / "pen.png", classes)
    pen = np.rint(0.55 * np.array([230, 159, 0]) + 0.45 * 240)
    assert count(with_pen, tuple(pen)) > 20 * max(1, count(plain, tuple(pen)))


def drawn(path: Path, thumbnail: np.ndarray, mask: np.ndarray, grid: TileGrid, **more: Any) -> np.ndarray:
    col, row = grid.cells()
    size = (thumbnail.shape[1], thumbnail.shape[0])
    write_preview(path, thumbnail, Tissue(mask), grid, col, row, slide_size=size, mpp=None, **more)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_annotations_are_drawn_in_the_colour_of_their_class_where_they_are(tmp_path: Path) -> None:
    white, nothing = np.full((300, 400, 3), 243, np.uint8), np.zeros((30, 40), bool)
    regions = [Annotation("tumor", shapely.box(100, 50, 300, 250)), Annotation("stroma", shapely.box(10, 10, 60, 60))]
    picture = drawn(tmp_path / "a.png", white, nothing, TileGrid(400, 0, 400, 400, 1.0, 1.0), annotations=regions)
    red = (np.abs(picture - ImageColor.getrgb(ANNOTATIONS[1])).max(axis=2) < 12)[: RIM + 1200]  # without the legend
    y, x = np.nonzero(red)
    # Four picture pixels to one of the slide, within the rim and below the line of text.
    assert (x.min() - RIM, x.max() - RIM) == (pytest.approx(400, abs=3), pytest.approx(1200, abs=3))
    assert y.max() - y.min() == pytest.approx(800, abs=6)
    assert count(picture, ImageColor.getrgb(ANNOTATIONS[0])) > 500


def test_tissue_and_tiles_at_the_rim_are_seen(tmp_path: Path) -> None:
    white = np.full((300, 400, 3), 243, np.uint8)
    grid = TileGrid(256, 0, 400, 300, 1.0, 1.0)  # the last column and row reach past the slide
    picture = drawn(tmp_path / "a.png", white, np.ones((30, 40), bool), grid)
    outline = (picture == 0).all(axis=2)[:, RIM : RIM + 1600]
    assert (outline.mean(axis=1) > 0.99).sum() >= 4, "above and below"
    past = picture[:, RIM + 1600 :]
    assert count(past, ImageColor.getrgb(TILES[0])) > 500


def test_fluorescence_is_brightened_and_its_lines_are_light(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dark = np.zeros((300, 400, 3), np.uint8)
    dark[100:200, 100:300, 0] = rng.integers(10, 40, (100, 200))
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:30] = True
    picture = drawn(tmp_path / "a.png", dark, mask, TileGrid(200, 0, 400, 300, 1.0, 1.0))
    assert picture[600:700, 800:1000, 0].mean() > 120
    assert count(picture, ImageColor.getrgb(ON_BLACK[OUTLINE[0]])) > 2000
    assert count(picture, ImageColor.getrgb(ON_BLACK[TILES[0]])) > 1000


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
