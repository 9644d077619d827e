"""A slide tiled in parts, by many at once or one that is killed, gives the store that one run gives, byte for byte."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import kill_at_sync, tree_digest

import wsivit
from wsivit.errors import StoreError, StoreMismatchError
from wsivit.slide import open_slide
from wsivit.store import StoreWriter, TileStore
from wsivit.store.verify import verify
from wsivit.tiling import TileOptions, Tiler, TilingTarget
from wsivit.tiling.tiling_plan import TilingPlan

OPTIONS = TileOptions(tile_size=32, tissue="none", codec="zstd")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_slide(tmp_path_factory.mktemp("slides") / "s.tiff", tissue_picture(500, 420))
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 3  # damages a native tile
    raw[middle : middle + 60] = bytes(60)
    path.write_bytes(raw)
    return path


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsivit.tiling.tiling_plan._shard_tiles", lambda options: 16)


def begun(slide: Path, folder: Path, tiler: Tiler) -> tuple[str, list[range], TilingPlan]:
    place = TilingTarget(str(folder / "s.zarr"), str(folder / "s.png"), "s")
    with open_slide(slide) as opened:
        layout = tiler.plan_tiling(opened, place)
        return place.store, tiler.begin(opened, place, layout), layout


def write(slide: Path, store: str, tiler: Tiler, shards: list[range]) -> dict[int, str]:
    with open_slide(slide) as opened:
        return tiler.write(opened, store, shards)


def finish(slide: Path, store: str, tiler: Tiler) -> TileStore:
    with open_slide(slide) as opened:
        return tiler.finish(opened, store)


@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_parts_by_many_make_the_store_of_one_run(slide: Path, tmp_path: Path, codec: str) -> None:
    options = replace(OPTIONS, codec=codec, tile_size=128 if codec == "jpeg" else 32)
    whole = wsivit.tile(slide, tmp_path / "whole", options).store
    tiler = Tiler(options)
    store, shards, _ = begun(slide, tmp_path / "parts", tiler)
    assert len(shards) == -(-len(whole) // 16)
    with pytest.raises(StoreError, match="not complete"):
        TileStore(store)
    with ThreadPoolExecutor(4) as pool:
        failures = list(pool.map(lambda shard: write(slide, store, tiler, [shard]), shards))
    assert sum(map(len, failures)) == (whole.status == 2).sum()
    finish(slide, store, tiler)
    assert tree_digest(Path(store)) == tree_digest(whole.path)
    assert verify(store, slide=slide) == []
    finish(slide, store, tiler)  # twice does no harm
    assert tree_digest(Path(store)) == tree_digest(whole.path)


def test_what_is_written_is_not_written_again_by_anyone(slide: Path, tmp_path: Path) -> None:
    tiler = Tiler(OPTIONS)
    store, shards, _ = begun(slide, tmp_path, tiler)
    write(slide, store, tiler, shards[:2])
    with pytest.raises(StoreError, match=r"shards are not written yet"):
        finish(slide, store, tiler)
    assert begun(slide, tmp_path, tiler)[1] == shards[2:]
    done = wsivit.tile(slide, tmp_path, OPTIONS)  # one run goes on with what the parts left
    assert done.resumed == 2
    assert tree_digest(Path(store)) == tree_digest(wsivit.tile(slide, tmp_path / "whole", OPTIONS).store.path)


def test_other_content_is_refused_not_mixed(slide: Path, tmp_path: Path) -> None:
    wsivit.tile(slide, tmp_path, OPTIONS)
    with pytest.raises(StoreMismatchError, match="codec"):
        begun(slide, tmp_path, Tiler(replace(OPTIONS, codec="jpeg")))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_parts_are_done_by_others(slide: Path, tmp_path: Path) -> None:
    """Each child is killed at some fsync; what it did not journal is done by the next."""
    tiler = Tiler(OPTIONS)
    store, shards, _ = begun(slide, tmp_path, tiler)
    for sync in range(0, 4 * len(shards), 3):
        child = os.fork()
        if child == 0:
            kill_at_sync(sync)
            write(slide, store, tiler, shards)
            os._exit(0)
        assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
    with StoreWriter.join(store) as writer:
        left = writer.pending()
    write(slide, store, tiler, left)
    finish(slide, store, tiler)
    assert tree_digest(Path(store)) == tree_digest(wsivit.tile(slide, tmp_path / "whole", OPTIONS).store.path)


def test_labels_are_those_of_one_run(slide: Path, tmp_path: Path) -> None:
    regions = tmp_path / "s.geojson"
    square = {"type": "Polygon", "coordinates": [[[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]]}
    properties = {"classification": {"name": "tumor"}}
    regions.write_text(json.dumps({"type": "Feature", "geometry": square, "properties": properties}))
    tiler = Tiler(OPTIONS, annotations=str(regions))
    store, shards, _ = begun(slide, tmp_path / "parts", tiler)
    write(slide, store, tiler, shards)
    labels = finish(slide, store, tiler).label("region")
    whole = wsivit.tile(slide, tmp_path / "whole", OPTIONS, annotations=regions).store.label("region")
    assert labels.classes == whole.classes == ("tumor",)
    assert np.array_equal(labels.codes, whole.codes)
    assert tree_digest(Path(store)) == tree_digest(tmp_path / "whole" / "s.zarr")
