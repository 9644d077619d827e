"""Whether the library reads an odd TIFF rightly: scale, pixels of every level, holes, and the tissue of a store."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import openslide
import tifffile
from scipy import ndimage
from support.odd_tiff import Mask, Odd, Picture, Truth, check_written, paint, shrink, write_odd

import wsivit
from wsivit.errors import ScaleError, SlideError, UnreadableTilesError
from wsivit.slide import Slide
from wsivit.store import Status

BLOCK, MARGIN, TILE = 48, 16, 64
_APART = {"jpeg": 11.0}  # grey levels by which the mean of a block's differences may be off


def examine(path: Path, odd: Odd) -> str:
    """Write a file and read it in every way; how it ended: ``"read"``, or what it was refused for.

    Raises
    ------
    AssertionError
        If pixels, scale or tissue are wrong and nothing says so.
    """
    truth = write_odd(path, odd)
    check_written(path, truth)
    try:
        slide = wsivit.open_slide(path)
    except SlideError as error:
        return str(error).replace(str(path), "FILE")
    with slide:
        _check_facts(slide, truth)
        if truth.mpp is None:
            try:
                raise AssertionError(f"a scale from nowhere: {slide.scale}")
            except ScaleError:
                pass
    with wsivit.open_slide(path, mpp=odd.mpp if truth.mpp is None else None) as slide:
        for factor in dict.fromkeys((1, 2, 3, *odd.factors)):
            _check_pixels(slide, truth, factor)
        if odd.seed % 3 == 0:  # writing stores takes most of the time
            _check_tissue(slide, truth, path.parent / "store")
    _check_openslide(path, truth)
    return "read"


def _check_facts(slide: Slide, truth: Truth) -> None:
    assert slide.dimensions == truth.odd.size, f"another picture: {slide.dimensions}"
    if truth.mpp is not None:
        assert np.allclose((slide.scale.mpp_x, slide.scale.mpp_y), truth.mpp, rtol=2e-3), slide.scale
        assert not slide.scale.warnings, slide.scale.warnings
    for level in slide.levels[1:]:
        near = min(truth.levels[1:], key=lambda one: abs(one.factor - level.downsample_x), default=None)
        size = near.pixels.shape[1::-1] if near else (0, 0)
        thumbnail = 5 if "thumbnail" in truth.odd.aside else 0
        factors = [one.factor for one in truth.levels] + [thumbnail]
        fit = [
            f
            for f in factors
            if f and abs(level.downsample_x / f - 1) < 0.02 and abs(level.downsample_y / f - 1) < 0.02
        ]
        bare = [one for one in truth.levels[1:] if not one.stored.any()]  # nothing tells what it is
        assert fit or bare, f"a level at {level.downsample_x:.3f} x {level.downsample_y:.3f}, not {factors} ({size})"
    others = [(other.width, other.height) for other in slide.info().others if other.kind == "picture"]
    assert truth.other is None or truth.other in others, f"a scene of {truth.other} is lost: {others}"
    # A level that has nothing to be compared with, and no mark that it is one, is a picture of its own.
    # One in strips is a thumbnail, unless it is a SubIFD.
    doubtful = [
        level.pixels.shape[1::-1]
        for level in truth.levels[1:]
        if (level.striped and not truth.odd.below) or not level.stored.any()
    ]
    left = [other for other in others if other not in doubtful and other != truth.other]
    comparable = truth.odd.padded == "no" and truth.levels[0].stored.all()
    assert not left or not comparable, f"other pictures: {left}"
    if truth.odd.scene in ("same", "half"):
        assert any("other large pictures" in warning for warning in slide.warnings), slide.warnings


def _expected(truth: Truth, slide: Slide, factor: int, level: int) -> tuple[Picture, Mask]:
    """Pixels at a scale, and which of them can be known from the level that is read."""
    downsample = slide.levels[level].downsample_x
    number = min(range(len(truth.levels)), key=lambda n: abs(truth.levels[n].factor - downsample))
    known, step = truth.known(number), factor / truth.levels[number].factor
    picture = shrink(truth.levels[0].pixels, factor)
    y, x = (
        np.minimum((np.arange(n) * step).astype(int), m - 1)
        for n, m in zip(picture.shape[:2], known.shape, strict=True)
    )
    y1, x1 = (
        np.minimum(np.ceil((np.arange(n) + 1) * max(step, m / n) - 1e-6).astype(int) - 1, m - 1)
        for n, m in zip(picture.shape[:2], known.shape, strict=True)
    )
    return picture, known[np.ix_(y, x)] & known[np.ix_(y1, x1)]


def _check_pixels(slide: Slide, truth: Truth, factor: int) -> None:
    plan = slide.plan(slide.scale.mpp_x * factor, tolerance=0.01)
    picture, known = _expected(truth, slide, factor, plan.level)
    inside = ndimage.binary_erosion(known, iterations=3, border_value=1)
    around = ndimage.binary_erosion(known, iterations=5, border_value=1)
    outside = ndimage.binary_erosion(~known, iterations=2)
    limit = _APART.get(truth.odd.compression, 8.0)
    damaged = plan.level > 0 and any(level == 0 and how != "both" for level, _, how in truth.odd.holes)
    whole = slide.read(plan, 0, 0, *picture.shape[1::-1]) if known.all() else None
    for y in range(0, picture.shape[0], BLOCK):
        for x in range(0, picture.shape[1], BLOCK):
            expected = picture[y : y + BLOCK, x : x + BLOCK].astype(int)
            if min(expected.shape[:2]) < MARGIN:
                continue  # where a level's sides are rounded, the last pixels lie up to one pixel beside their place
            place = np.s_[y : y + BLOCK, x : x + BLOCK]
            where = f"level {plan.level} at 1/{factor}, ({x}, {y})"
            try:
                found = slide.read(plan, x, y, *expected.shape[1::-1]) if whole is None else whole[place]
            except UnreadableTilesError as error:
                # Filters reach past a block; and a tile that is filled is as damaged as the tiles that fill it.
                assert damaged or not around[place].all(), f"{where}: {error}"
                continue
            off = np.abs(found - expected)
            assert not inside[place].any() or off[inside[place]].mean() < limit, (
                f"{where}: off by {off[inside[place]].mean():.1f}"
            )
            # Filters that reduce twice may reach past the edge of what is stored by a grey level or two.
            assert (found[outside[place]] >= 252).all(), (
                f"{where}: shows {found[outside[place]].mean(0)} where nothing is"
            )


@cache
def _plain_cells(seed: int, size: tuple[int, int], mpp: float) -> frozenset[tuple[int, int]]:
    """Tiles that the same picture has in the plainest of files."""
    how = {"photometric": "rgb", "compression": "deflate", "tile": (64, 64), "metadata": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.tif"
        tifffile.imwrite(path, paint(seed, *size), **how)
        with wsivit.open_slide(path, mpp=mpp) as slide:
            store = wsivit.tile(slide, Path(folder) / "store", wsivit.TileOptions(mpp=mpp, tile_size=TILE)).store
        return frozenset(zip(store.col.tolist(), store.row.tolist(), strict=True))


def _check_tissue(slide: Slide, truth: Truth, folder: Path) -> None:
    odd, known = truth.odd, truth.levels[0].stored
    options = wsivit.TileOptions(mpp=slide.scale.mpp_x, tile_size=TILE, quality=95)
    result = wsivit.tile(slide, folder, options)
    store = result.store
    cells = list(zip(store.col.tolist(), store.row.tolist(), strict=True))
    plain = _plain_cells(odd.seed, odd.size, odd.mpp)
    stored = {(c, r) for c, r in plain if known[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE].all()}
    green = truth.levels[0].pixels[..., 1]  # a tile on the outline of tissue may come and go with the threshold
    inner = {(c, r) for c, r in stored if (green[r * TILE :, c * TILE :][:TILE, :TILE] < 215).mean() > 0.5}
    lost = inner - set(cells)
    assert len(lost) <= max(1, 0.05 * len(plain)), f"{len(lost)} of {len(plain)} tiles of tissue are lost"
    for index, (col, row) in enumerate(cells):
        place = np.s_[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
        if store.status[index] in (Status.MISSING, Status.UNREADABLE):
            assert not known[place].all(), f"tile {col, row}: {Status(store.status[index]).name}"
            continue
        expected, there = truth.levels[0].pixels[place].astype(int), known[place]
        assert there.any(), f"tile {col, row} shows what is not stored"
        off = np.abs(store[index][: expected.shape[0], : expected.shape[1]] - expected)[there].mean()
        assert off < _APART.get(odd.compression, 8.0), f"tile {col, row} is off by {off:.1f}"


def _check_openslide(path: Path, truth: Truth) -> None:
    """Where OpenSlide takes the same picture, its pixels are the truth too: or the truth itself is wrong."""
    try:
        with openslide.OpenSlide(path) as theirs:
            if theirs.dimensions != truth.odd.size or truth.odd.colors == "grey planes":
                return
            seen = np.asarray(theirs.read_region((0, 0), 0, theirs.dimensions)).astype(int)
    except (openslide.OpenSlideError, OSError):
        return
    where = truth.levels[0].stored & (seen[..., 3] == 255)
    if truth.odd.scene != "same" and where.any():
        assert np.abs(seen[..., :3] - truth.levels[0].pixels)[where].mean() < 6


def examine_drawn(folder: Path, odd: Odd) -> str:
    """`examine` in a folder of its own, which is removed."""
    ending = {"ome": ".ome.tif", "aperio": ".svs", "generic": ".tif"}[odd.dialect]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return examine(Path(place) / f"slide{ending}", odd)
