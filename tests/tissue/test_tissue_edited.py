"""A tissue mask goes out as GeoJSON, is edited, and comes back: tiles keep who they are, and what is known of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import shapely
from support.small_slides import tissue_picture, write_slide

from wsivit import TileOptions, TileStore, export, tile
from wsivit.store import Predictions


def places(store: TileStore) -> dict[tuple[int, int], int]:
    """Index of each tile by its column and row."""
    return {place: i for i, place in enumerate(zip(store.col.tolist(), store.row.tolist(), strict=True))}


def test_an_edited_mask_keeps_the_tiles_and_what_is_known_of_them(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(1500, 1200))
    first = tile(slide, tmp_path / "first", TileOptions(tile_size=100, codec="none")).store
    p = np.random.default_rng(0).random((len(first), 1), np.float32)
    first.write_predictions("run", Predictions(np.hstack([1 - p, p]), ("stroma", "tumor")))
    outline = Path(export(first, "tissue", tmp_path / "edited.geojson"))
    drawn = json.loads(outline.read_text())
    for feature in drawn["features"]:  # as in QuPath: the right part is cut off
        cut = shapely.from_geojson(json.dumps(feature["geometry"])) & shapely.box(0, 0, 800, 1200)
        feature["geometry"] = json.loads(shapely.to_geojson(cut))
    outline.write_text(json.dumps(drawn))
    options = TileOptions(tile_size=100, codec="none", tissue=str(outline))
    second = tile(slide, tmp_path / "second", options).store
    old, new = places(first), places(second)
    assert 10 < len(new) < len(old)
    assert (second.x0 < 800).all()
    both = [place for place in new if place in old]
    assert len(both) > 0.9 * len(new)
    before, now = [old[place] for place in both], [new[place] for place in both]
    for column in ("col", "row", "x0", "y0"):
        np.testing.assert_array_equal(getattr(first, column)[before], getattr(second, column)[now])
    carried = np.full((len(second), 2), np.nan, np.float32)
    carried[now] = first.predictions("run").probabilities[before]
    second.write_predictions("run", Predictions(carried, ("stroma", "tumor")))
    there = second.predictions("run").probabilities
    np.testing.assert_array_equal(there[now], np.hstack([1 - p, p])[before])
    assert np.isnan(np.delete(there, now, axis=0)).all()
