"""A store as an array and as a table."""

from __future__ import annotations

import numpy as np
import pytest
from support.train_helpers import write_store

from wsivit import TileStore
from wsivit.store import Predictions, store_info


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    store = write_store(tmp_path_factory.mktemp("store"), "s", columns=6, rows=4, mpp=0.5)
    half = np.full((24, 2), 0.5, np.float32)
    half[0] = np.nan
    half[1] = 0.25, 0.75
    store.write_predictions("vit", Predictions(half, ("stroma", "tumor")))
    with store.features_writer("tiny", (3,), {}) as writer:
        for block in writer.pending():
            writer.write(block, np.zeros((len(block), 3), np.float16))
        writer.finish()
    return TileStore(store.url)


def test_slices_lists_and_masks_are_those_of_an_array(store: TileStore) -> None:
    every = store.read(np.arange(24))
    assert np.array_equal(store[:4], every[:4])
    assert np.array_equal(store[20:2:-5], every[20:2:-5])
    assert np.array_equal(store[[3, -1]], every[[3, -1]])
    mask = np.arange(24) % 7 == 0
    assert np.array_equal(store[mask], every[mask])
    assert np.array_equal(store[np.int64(5)], every[5])
    assert store[5:5].shape == (0, 48, 48, 3)
    for wrong in (24, [24], 1.5, np.ones(3, bool)):
        with pytest.raises(IndexError):
            store[wrong]  # type: ignore[index]


def test_places_and_scale(store: TileStore) -> None:
    assert store.mpp == 0.5
    assert store.coords.shape == (24, 2)
    assert store.coords[7].tolist() == [48, 48]  # the second of the second row


def test_the_table_has_all_that_is_known_of_each_tile(store: TileStore) -> None:
    table = store.to_dataframe()
    assert len(table) == 24
    assert table["status"].unique().tolist() == ["ok"]
    assert table["x0"].tolist() == store.x0.tolist()
    assert table["labels/region"].isna().sum() == 2
    assert table["labels/region"].tolist()[1:7] == ["stroma", "stroma", "tumor", "tumor", "tumor", "stroma"]
    assert table.loc[1, "predictions/vit/tumor"] == 0.75
    assert np.isnan(table.loc[0, "predictions/vit/tumor"])


def test_what_is_in_it(store: TileStore) -> None:
    info = store_info(store)
    assert (info.tiles, info.status["ok"], info.tile_size, info.mpp) == (24, 24, 48, (0.5, 0.5))
    assert info.labels == {"region": {"stroma": 11, "tumor": 11, "none": 2}}
    assert info.predictions["vit"]["tumor"] == pytest.approx((0.75 + 22 * 0.5) / 23)
    assert info.features == {"tiny": (3,)}
    records = ("zarr.json", "journal.jsonl")
    pixels = [path for path in (store.path / "tiles").rglob("*") if path.is_file() and path.name not in records]
    assert info.bytes == sum(path.stat().st_size for path in pixels)
    text = str(info)
    for part in ("24 of 48 px: 24 ok", "0.5 µm/px", "region: stroma 11, tumor 11, none 2", "tiny: 3 per tile"):
        assert part in text
    assert "<table>" in store._repr_html_() and "region: stroma 11" in store._repr_html_()
    assert "<TileStore" in repr(store)
