"""From slide to store: the right pixels at the right place, and nothing lost when it goes wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from support.small_slides import tissue_picture, write_slide

from wsivit.errors import ScaleError, SlideError, StoreMismatchError, UnreadableTilesError, UsageError
from wsivit.slide import open_slide
from wsivit.slide.jpeg_levels import JpegTiles
from wsivit.store import Status, TileStore
from wsivit.store.verify import verify
from wsivit.tiling import TileOptions, TileOrigins, tile
from wsivit.tiling.shard_writer import write_shards

SIDE = 1024


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "s.tiff", tissue_picture(1500, 1200), tile=128)


def tile_bytes(slide: Path, index: int) -> tuple[int, int]:
    """Offset and length of one of the slide's own tiles, of its first page."""
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        return page.dataoffsets[index], page.databytecounts[index]


def openslide_region(slide: Path, x: int, y: int, size: int) -> NDArray[np.uint8]:
    """OpenSlide's own pixels, on white where it has none."""
    with openslide.OpenSlide(slide) as handle:
        region = handle.read_region((x, y), 0, (size, size))
    white = np.full((size, size, 3), 255, np.uint8)
    rgba = np.asarray(region)
    return np.where(rgba[..., 3:] > 0, rgba[..., :3], white).astype(np.uint8)


def test_copied_tiles_are_the_slides_own_pixels(slide: Path, tmp_path: Path) -> None:
    done = tile(slide, tmp_path, TileOptions(mpp=0.5, tile_size=256))
    store = done.store
    assert store.parameters.encoding == "copied"
    inside = np.flatnonzero(store.status == Status.OK)
    assert len(inside) > 5
    for i in inside:
        assert np.array_equal(store[i], openslide_region(slide, store.x0[i], store.y0[i], 256))


def test_lossless_store_equals_an_independent_decoder(slide: Path, tmp_path: Path) -> None:
    store = tile(slide, tmp_path, TileOptions(mpp=0.5, tile_size=200, overlap=37, codec="zstd")).store
    whole = tifffile.imread(slide, key=0)
    for i in np.flatnonzero(store.status == Status.OK):
        x, y = store.x0[i], store.y0[i]
        assert np.array_equal(store[i], whole[y : y + 200, x : x + 200])


def test_native_tiles_are_copied_byte_for_byte(slide: Path, tmp_path: Path) -> None:
    store = tile(slide, tmp_path, TileOptions(mpp=0.5, tile_size=128)).store
    raw = slide.read_bytes()
    per_row = -(-1500 // 128)
    for i in np.flatnonzero(store.status == Status.OK)[::5]:
        index = int(store.row[i]) * per_row + int(store.col[i])
        offset, count = tile_bytes(slide, index)
        scan = raw[offset : offset + count]
        (copied,) = store.encoded(i)
        # From the frame header on nothing may differ: only tables and markers before it are normalised.
        start = scan.index(b"\xff\xc0")
        assert scan[start:] in copied


@pytest.mark.parametrize("codec", ["jpeg", "zstd", "none"])
def test_columns_are_there_whatever_the_codec(slide: Path, tmp_path: Path, codec: str) -> None:
    regions = tmp_path / "r.geojson"
    box = [[[0, 0], [750, 0], [750, 1200], [0, 1200], [0, 0]]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": box},
        "properties": {"classification": {"name": "left"}},
    }
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    options = TileOptions(mpp=1.0, tile_size=100, codec=codec)  # type: ignore[arg-type]
    path = tile(slide, tmp_path, options, annotations=regions).store.path
    group = zarr.open_group(path, mode="r")
    n = group["x0"].shape[0]
    assert n > 10
    for name in ("x0", "y0", "col", "row", "tissue_fraction", "status"):
        assert group[name].shape == (n,)
    codes = group["labels/region"][:]
    centre = group["x0"][:] + 100
    assert set(codes.tolist()) == {-1, 0}
    assert ((centre < 750) == (codes == 0)).all()
    assert ("tiles" in group) == (codec != "none")
    assert group.attrs["wsivit"]["complete"] is True
    assert group["tissue_mask"].dtype == bool
    assert max(group["thumbnail"].shape) == 1500


def test_a_store_without_pixels_reads_the_slide_through(slide: Path, tmp_path: Path) -> None:
    without = tile(slide, tmp_path / "none", TileOptions(tile_size=256, codec="none")).store
    lossless = tile(slide, tmp_path / "zstd", TileOptions(tile_size=256, codec="zstd")).store
    indices = np.arange(len(lossless))
    assert not without.has_pixels
    assert np.array_equal(without.read(indices), lossless.read(indices))


def test_min_tissue_keeps_tiles_by_their_tissue_and_their_identity(slide: Path, tmp_path: Path) -> None:
    every = tile(slide, tmp_path / "a", TileOptions(tile_size=128, min_tissue=0, codec="none")).store
    some = tile(slide, tmp_path / "b", TileOptions(tile_size=128, min_tissue=0.7, codec="none")).store
    assert len(every) == len(every.grid)
    keep = every.tissue_fraction >= 0.7
    assert 0 < keep.sum() < len(every)
    for column in ("col", "row", "x0", "y0", "tissue_fraction"):
        assert np.array_equal(getattr(every, column)[keep], getattr(some, column))


def test_quality_control_is_stored_and_can_choose_tiles(tmp_path: Path) -> None:
    picture = tissue_picture(5000, 4000).astype(np.int16)
    grain = np.random.default_rng(1).normal(0, 20, (400, 500, 1)).repeat(10, axis=0).repeat(10, axis=1)
    picture = np.where(picture < 240, picture + grain, picture)  # cells, so that ink is smoother than tissue
    picture[1800:2100, 100:4900] = [20, 60, 200]  # a stroke of blue marker, from glass to glass across the tissue
    path = write_slide(tmp_path / "pen.tiff", np.clip(picture, 0, 255).astype(np.uint8), mpp=1.0)
    every = tile(path, tmp_path / "all", TileOptions(mpp=1.0, tile_size=100, codec="none", tissue="none")).store
    ours = TileOptions(mpp=1.0, tile_size=100, codec="none", max_pen=0.1)
    clean = tile(path, tmp_path / "clean", ours).store
    assert every.qc == {}  # without a search for tissue nothing is known of ink
    assert set(clean.qc) == {"pen", "blur", "fold", "fat"}
    assert verify(clean.path) == []
    assert (clean.qc["pen"] <= 0.1).all()
    in_stroke = (clean.y0 >= 1800) & (clean.y0 < 2100)
    assert in_stroke.sum() <= 0.1 * 3 * 38
    assert len(clean) > 600


def test_a_second_run_changes_nothing(slide: Path, tmp_path: Path) -> None:
    path = tile(slide, tmp_path).store.path
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.rglob("*") if p.is_file()}
    tile(slide, tmp_path)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.rglob("*") if p.is_file()}


def test_other_parameters_are_refused_by_name_and_nothing_is_lost(slide: Path, tmp_path: Path) -> None:
    store = tile(slide, tmp_path).store
    before = store.read(np.arange(3))
    with pytest.raises(StoreMismatchError, match=r"tile_size.*256.*128"):
        tile(slide, tmp_path, TileOptions(tile_size=128))
    assert np.array_equal(TileStore(store.path).read(np.arange(3)), before)
    assert tile(slide, tmp_path, TileOptions(tile_size=128), force=True).store.grid.tile_size == 128


def test_unknown_scale_is_refused_and_names_the_flag(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "unscaled.tiff", tissue_picture(512, 512), mpp=None)
    with pytest.raises(ScaleError, match="--slide-mpp"):
        tile(path, tmp_path)
    assert not (tmp_path / "unscaled.zarr").exists()
    assert tile(path, tmp_path, slide_mpp=0.5).store.parameters.slide_mpp == (0.5, 0.5)


def test_what_would_be_ignored_is_refused(slide: Path, tmp_path: Path) -> None:
    with open_slide(slide) as opened, pytest.raises(UsageError, match="open already"):
        tile(opened, tmp_path, slide_mpp=1.0)


def test_finer_than_the_slide_is_refused(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(ScaleError, match=r"0\.5"):
        tile(slide, tmp_path, TileOptions(mpp=0.25))


def test_a_blank_slide_gives_an_empty_store(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "blank.tiff", np.full((700, 700, 3), 244, np.uint8))
    store = tile(path, tmp_path).store
    assert len(store) == 0
    assert len(TileStore(store.path)) == 0


def test_it_is_told_how_tiles_were_made(slide: Path, tmp_path: Path) -> None:
    per_row = -(-1500 // 128)
    path = tmp_path / "blank.tiff"
    path.write_bytes(slide.read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            index = tiff.pages[0].tags[name]
            index.overwrite([0 if i == 3 * per_row + 4 else value for i, value in enumerate(index.value)])
    everything = {"tissue": "none", "min_tissue": 0.0}

    def made(**options: object) -> TileOrigins:
        done = tile(path, tmp_path / str(options), TileOptions(**everything, **options))  # type: ignore[arg-type]
        assert tile(path, tmp_path / str(options), TileOptions(**everything, **options)).origins == done.origins  # type: ignore[arg-type]
        return done.origins

    # 12 x 10 tiles, of which the last column and the last row reach past the slide, and one was never scanned.
    assert made(tile_size=128) == TileOrigins(copied=11 * 9 - 1, scaled=20 + 1)
    assert made(tile_size=256) == TileOrigins(copied=5 * 4 - 1, scaled=6 + 5 - 1 + 1)
    assert made(tile_size=128, codec="zstd") == TileOrigins(scaled=119)
    assert made(tile_size=64, mpp=1.0) == TileOrigins(scaled=120)
    assert made(tile_size=100, mpp=0.7).resampled > 50
    assert made(codec="none") == TileOrigins()


def test_bounds_are_kept_to_and_recorded(slide: Path, tmp_path: Path) -> None:
    """As of a MIRAX slide, of which no real one is at hand: what lies beyond them was not scanned."""
    bounds = (300, 200, 700, 640)
    with open_slide(slide) as opened:
        opened._backend.facts = replace(opened._backend.facts, bounds=bounds)  # type: ignore[misc]
        store = tile(opened, tmp_path, TileOptions(tile_size=128, tissue="none", min_tissue=0, codec="none")).store
    assert store.parameters.slide_bounds == bounds
    assert (store.col.min(), store.col.max()) == (300 // 128, (300 + 700 - 1) // 128)
    assert (store.row.min(), store.row.max()) == (200 // 128, (200 + 640 - 1) // 128)
    assert len(store) == 6 * 6
    assert (store.x0 == store.col * 128).all()  # still counted from the corner of the whole image
    (corner,) = np.flatnonzero((store.col == 2) & (store.row == 1))
    assert store.tissue_fraction[corner] == pytest.approx((384 - 300) * (256 - 200) / 128**2, abs=0.1)
    assert store.tissue_fraction[(store.col == 4) & (store.row == 3)] == 1


@pytest.mark.parametrize(
    ("size", "options"), [(512, {}), (200, {"mpp": 1.0}), (300, {"overlap": 60}), (512, {"mpp": 0.7})]
)
def test_tiles_over_native_ones_of_240_px_decode_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, options: dict[str, float]
) -> None:
    path = write_slide(tmp_path / "s.tiff", tissue_picture(3000, 2200), tile=240, levels=1)
    decoded: Counter[tuple[int, int, int]] = Counter()
    decode, shards = JpegTiles.decode, write_shards

    def counting(self: JpegTiles, col: int, row: int, reduce: int) -> object:
        decoded[self.number, col, row] += 1
        return decode(self, col, row, reduce)

    def counted(*args: Any) -> object:
        monkeypatch.setattr(JpegTiles, "decode", counting)
        failures = shards(*args)
        monkeypatch.setattr(JpegTiles, "decode", decode)
        return failures

    monkeypatch.setattr(import_module("wsivit.tiling.tile"), "write_shards", counted)
    monkeypatch.setattr("wsivit.tiling.tiling_plan.SHARD_BYTES", 1 << 18)  # several shards
    done = tile(path, tmp_path, TileOptions(tile_size=size, tissue="none", **options))  # type: ignore[arg-type]
    assert len(done.store) > done.store.parameters.shard_tiles
    assert done.origins.scaled + done.origins.resampled == len(done.store)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 13 * 10


def damaged(slide: Path, folder: Path, index: int) -> Path:
    """Copy a slide with one of its tiles' bytes zeroed."""
    raw = bytearray(slide.read_bytes())
    offset, count = tile_bytes(slide, index)
    raw[offset : offset + count] = bytes(count)
    path = folder / "damaged.tiff"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("codec", ["jpeg", "zstd"])
def test_an_unreadable_tile_is_recorded_and_the_rest_is_right(slide: Path, tmp_path: Path, codec: str) -> None:
    per_row = -(-1500 // 128)
    path = damaged(slide, tmp_path, 4 * per_row + 5)
    options = TileOptions(tile_size=128, codec=codec)  # type: ignore[arg-type]
    done = tile(path, tmp_path, options)
    store = done.store
    assert len(done.failures) == 1
    (bad,) = done.failures
    assert (store.col[bad], store.row[bad], store.status[bad]) == (5, 4, Status.UNREADABLE)
    assert bad not in store.readable
    with pytest.raises(UnreadableTilesError):
        store[bad]
    for i in np.flatnonzero(store.status == Status.OK)[::7]:
        assert np.array_equal(store[i], openslide_region(slide, store.x0[i], store.y0[i], 128))
    with pytest.raises(UnreadableTilesError):
        tile(path, tmp_path / "strict", options, on_unreadable_tile="fail")


@pytest.mark.parametrize("options", [{"min_tissue": 1.5}, {"quality": 0}, {"codec": "gif"}])
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TileOptions(**options)  # type: ignore[arg-type]


def test_a_page_of_html_is_not_a_slide(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(SlideError, match=r"slide\.svs.*HTML"):
        tile(path, tmp_path)


# ------------------------------------------------------------------------------------------------ the printed ruler


TICK = 160


def ruler(width: int, height: int) -> NDArray[np.uint8]:
    """Paint a slide that tells its own place: a dark tick every 160 px, 8 px wide, and green that climbs with x."""
    x = np.arange(width)
    line = np.empty((width, 3), np.uint8)
    line[:, 0] = np.where(abs(x % TICK - TICK / 2 + 0.5) < 4, 0, 240)
    line[:, 1] = x * 240 // width
    line[:, 2] = 128
    return np.broadcast_to(line, (height, width, 3)).copy()


def tick_places(tiles: NDArray[np.uint8], downsample: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the first whole tick of each tile: its number on the slide, and its place from the tile's corner."""
    numbers, places = [], []
    for pixels in tiles.astype(float):
        dark = 240 - pixels[..., 0].mean(axis=0)
        peak = int(np.argmax(dark[8:-8])) + 8
        window = np.arange(peak - 8, peak + 9)
        places.append((np.average(window, weights=dark[window]) + 0.5) * downsample)
        green = pixels[:, peak, 1].mean() + 0.5
        numbers.append(green)
    return np.array(numbers), np.array(places)


@pytest.mark.parametrize("mpp", [0.2738, 0.3125, 0.4545])
@pytest.mark.parametrize("wanted", [0.5, 0.7])
def test_every_tile_lies_where_it_says_over_the_whole_width(tmp_path: Path, mpp: float, wanted: float) -> None:
    width, height = 16000, 520
    path = tmp_path / "ruler.tiff"
    tifffile.imwrite(
        path, ruler(width, height), tile=(256, 256), photometric="rgb", compression="deflate",
        resolution=(1e4 / mpp,) * 2, resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    options = TileOptions(mpp=wanted, tile_size=192, min_tissue=0, tissue="none", edge="drop", codec="zstd")
    store = tile(path, tmp_path, options).store
    green, place = tick_places(store.read(np.arange(len(store))), store.parameters.mpp[0] / mpp)
    seen = store.x0 + place
    # Ticks are centred at 80, 240, 400 …: the nearest to what was seen, and the green says that it is that one.
    number = np.rint((seen - TICK / 2) / TICK)
    assert np.abs(green - (number * TICK + TICK / 2) * 240 / width).max() < 1.5
    error = seen - (number * TICK + TICK / 2)
    assert np.abs(error).max() <= 0.55  # half a pixel from rounding x0, and what eight grey bits lose
    assert abs(np.polyfit(seen, error, 1)[0]) * width < 0.3  # no drift
