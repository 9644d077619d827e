"""Stores that nobody should train on say so: in the log, on the preview, in the report and in the ledger."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.small_slides import write_slide

from wsivit.cohort import Cohort, CohortOptions
from wsivit.tiling import TileOptions, TilingResult, tile

OPTIONS = TileOptions(tile_size=64)


def half_empty(width: int = 1024, height: int = 512) -> NDArray[np.uint8]:
    """Tissue in the left quarter, glass as a scanner sees it in the rest."""
    rng = np.random.default_rng(0)
    picture = rng.normal(240, 1.5, (height, width, 3))
    picture[:, : width // 4] = np.array([205, 140, 185]) + rng.normal(0, 18, (height, width // 4, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "s.tiff"
    write_slide(path, half_empty())
    return path


def mask(path: Path, value: int) -> str:
    Image.fromarray(np.full((64, 128), value, np.uint8)).save(path)
    return str(path)


def has_banner(preview: Path | str) -> bool:
    """Whether a red strip runs above the picture."""
    with Image.open(preview) as drawn:
        top = np.asarray(drawn.convert("RGB"))[:4]
    return bool((top == (0xB0, 0, 0x20)).all())


def test_a_good_store_has_no_warning(slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "wsivit"):
        done = tile(slide, tmp_path, OPTIONS)
    assert len(done.store) and done.warnings == () and not has_banner(done.preview)
    assert "EMPTY" not in caplog.text


def check(done: TilingResult, says: str, log: str) -> None:
    (warning,) = done.warnings
    assert says in warning and says in log
    assert has_banner(done.preview)


def test_an_empty_mask_is_warned_of(slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = tile(slide, tmp_path, TileOptions(tile_size=64, tissue=mask(tmp_path / "m.png", 0)))
    check(done, "NO TILES", caplog.text)


@pytest.mark.parametrize("tissue", ["none", "white"])
def test_tiles_of_glass_are_warned_of(
    slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, tissue: str
) -> None:
    method = mask(tmp_path / "m.png", 255) if tissue == "white" else tissue
    done = tile(slide, tmp_path, TileOptions(tile_size=64, tissue=method))
    check(done, f"EMPTY GLASS: 96 of {len(done.store)} tiles show nothing", caplog.text)


def test_a_white_slide_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_slide(tmp_path / "white.tiff", np.full((256, 256, 3), 255, np.uint8))
    check(tile(tmp_path / "white.tiff", tmp_path, TileOptions(tile_size=64, tissue="none")), "16 of 16", caplog.text)


def regions(path: Path, *named: tuple[str, tuple[int, int, int, int]]) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[l, t], [r, t], [r, b], [l, b], [l, t]]]},
            "properties": {"classification": {"name": name}},
        }
        for name, (l, t, r, b) in named  # noqa: E741
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_class_that_no_tile_has_is_warned_of(slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawn = regions(tmp_path / "a.geojson", ("stroma", (0, 0, 256, 512)), ("tumor", (900, 300, 1000, 400)))
    done = tile(slide, tmp_path, OPTIONS, annotations=drawn)
    check(done, "CLASS WITHOUT TILES: no tile is 'tumor'", caplog.text)
    regions(tmp_path / "b.geojson", ("stroma", (0, 0, 256, 256)), ("tumor", (0, 256, 256, 512)))
    assert tile(slide, tmp_path, OPTIONS, annotations=tmp_path / "b.geojson").warnings == ()


def test_the_ledger_and_the_report_tell_of_it(slide: Path, tmp_path: Path) -> None:
    cohort = Cohort(slide.parent, tmp_path / "out", CohortOptions())
    report = cohort.tile(TileOptions(tile_size=64, tissue="none")).report()
    assert "WARNING  s: EMPTY GLASS" in report
    with (tmp_path / "out" / "ledger.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["state"] == "done" and row["warning"].startswith("EMPTY GLASS: 96 of 128 tiles")
