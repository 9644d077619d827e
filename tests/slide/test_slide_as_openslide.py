"""The names that people know from OpenSlide mean the same here."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from support.small_slides import tissue_picture, write_slide

import wsivit
from wsivit.errors import UsageError

Find = Callable[[str], Path]


def test_levels_and_regions_are_those_of_openslide(real_slide: Find) -> None:
    path = real_slide("CMU-1-Small-Region.svs")
    rng = np.random.default_rng(0)
    with openslide.OpenSlide(path) as theirs, wsivit.open_slide(path) as ours:
        assert ours.level_dimensions == theirs.level_dimensions
        assert ours.level_downsamples == theirs.level_downsamples
        assert ours.mpp == float(theirs.properties["openslide.mpp-x"])
        for x, y, width, height in rng.integers([0, 0, 1, 1], [2000, 2700, 400, 400], (8, 4)).tolist():
            expected = theirs.read_region((x, y), 0, (width, height))
            seen = ours.read_region((x, y), 0, (width, height))
            assert isinstance(seen, Image.Image) and seen.size == (width, height)
            inside = np.asarray(expected)[..., 3] == 255
            np.testing.assert_array_equal(np.asarray(seen)[inside], np.asarray(expected)[..., :3][inside])
            assert (np.asarray(seen)[~inside] == 255).all()
        thumbnails = [slide.get_thumbnail((300, 500)).convert("RGB") for slide in (ours, theirs)]
    mine, other = (np.asarray(thumbnail).astype(int) for thumbnail in thumbnails)
    assert mine.shape == other.shape and np.abs(mine - other).mean() < 3


def test_a_location_is_in_level_0_pixels_at_every_level(tmp_path: Path) -> None:
    """Levels of every second pixel: a region of level 1 at ``(x, y)`` begins with the picture's pixel there."""
    path = write_slide(tmp_path / "s.tif", tissue_picture(900, 700), levels=3)
    with openslide.OpenSlide(path) as theirs, wsivit.open_slide(path) as ours:
        for level, step in ((1, 2), (2, 4)):
            for x, y in ((0, 0), (step * 31, step * 50), (step * 100, 0)):
                expected = np.asarray(theirs.read_region((x, y), level, (70, 60)).convert("RGB"))
                np.testing.assert_array_equal(np.asarray(ours.read_region((x, y), level, (70, 60))), expected)
        whole = np.asarray(ours.read_region((0, 0), 1, (450, 350)))
        between = np.asarray(ours.read_region((201, 101), 1, (20, 20)))
        assert any(np.array_equal(between, whole[y : y + 20, x : x + 20]) for x in (100, 101) for y in (50, 51))
        with pytest.raises(UsageError, match="no level 3: it has levels 0 to 2"):
            ours.read_region((0, 0), 3, (1, 1))
        with pytest.raises(UsageError, match="1x1"):
            ours.read_region((0, 0), 0, (0, 5))


def test_a_slide_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    with wsivit.open_slide(write_slide(tmp_path / "a&b.tif", tissue_picture(900, 700))) as slide:
        page = slide._repr_html_()
        assert "0.5 µm per pixel" in page and "900 x 700" in page and "native" in page
        picture = Image.open(io.BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)", page)[0])))
        assert picture.size == (320, 249)
        assert np.abs(np.asarray(picture).astype(int) - slide.thumbnail(320)).mean() < 6
    with wsivit.open_slide(write_slide(tmp_path / "none.tif", tissue_picture(900, 700), mpp=None)) as slide:
        assert "unknown" in slide._repr_html_()
