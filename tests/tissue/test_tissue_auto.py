"""The default mask on procedural slides with exact truth, on real ones with truth drawn by eye, and at its limits."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from support.tissue_truth.procedural import UM, Scene, make_pen_scene, make_scene
from support.tissue_truth.scorer import IGNORE, TISSUE, DrawnSlide, Score, drawn_slides, ignore_band, score

from wsivit.demo.paint import draw_slide
from wsivit.slide import open_slide
from wsivit.tissue import Tissue, TissueClass, find_tissue, qc_fractions
from wsivit.tissue.focus import blur_scores, line_pairs, sharpness, sharpness_along

SHAPE = (400, 540)


def judge(scene: Scene, tissue: Tissue) -> Score:
    truth = np.where(scene.tissue, TISSUE, 0).astype(np.uint8)
    truth[scene.unjudged | (scene.pen & scene.tissue)] = IGNORE
    return score(tissue.mask, ignore_band(truth, UM), UM)


@pytest.mark.parametrize(
    "name",
    [
        "smooth pale", "dark", "pasd", "ihc negative", "trichrome", "silver", "grey glass", "tinted glass",
        "uneven light", "dirty pale", "black border", "white fill", "all pale tissue",
    ],
)  # fmt: skip
def test_keeps_the_tissue_and_nothing_else(name: str) -> None:
    scene = make_scene(name, seed=1, shape=SHAPE)
    result = judge(scene, find_tissue(scene.render(), UM))
    assert result.iou > 0.96, result
    assert result.tissue_tiles_kept > 0.98 and result.glass_tiles_kept < 0.01, result


@pytest.mark.parametrize("colour", ["green", "blue", "black", "red", "over tissue"])
def test_drops_pen_of_any_colour(colour: str) -> None:
    scene = make_scene(f"pen {colour}", seed=1, shape=SHAPE)
    tissue = find_tissue(scene.render(), UM)
    assert tissue.mask[scene.pen].mean() < 0.1
    assert judge(scene, tissue).recall > 0.85
    assert tissue.classes is not None and (tissue.classes[scene.pen] == TissueClass.PEN).mean() > 0.9


@pytest.mark.parametrize(
    "name",
    ["blue within he", "red within pas", "purple within he-pale", "black within ihc", "green across, tiny",
     "red across, small", "black around, small", "purple within, small"],
)  # fmt: skip
def test_drops_pen_without_glass_beside_it_and_on_small_slides(name: str) -> None:
    scene = make_pen_scene(name)
    tissue = find_tissue(scene.render(), UM)
    assert tissue.mask[scene.pen].mean() < 0.1
    far = scene.tissue & (ndimage.distance_transform_edt(~scene.pen) * UM > 100)
    assert tissue.mask[far].mean() > 0.98


def test_drops_the_pen_of_the_smallest_sample_slide() -> None:
    layout, picture = draw_slide(1, 2048)
    pen = layout.block("pen", 0, 0, 2048, 2048)[8::16, 8::16] > 0
    view = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BOX))
    assert find_tissue(view, UM).mask[pen].mean() < 0.1


@pytest.mark.parametrize("name", ["nothing", "nothing but dirt", "nothing but pen"])
def test_finds_nothing_where_there_is_none(name: str) -> None:
    scene = make_scene(name, seed=1, shape=SHAPE)
    assert not find_tissue(scene.render(), UM).mask.any()


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [("fold", TissueClass.FOLD, 0.4), ("fat", TissueClass.FAT, 0.8), ("blur", TissueClass.BLUR, 0.6)],
)
def test_tells_folds_fat_and_blur(name: str, kind: TissueClass, least: float) -> None:
    scene = make_scene(name, seed=1, shape=SHAPE)
    tissue = find_tissue(scene.render(), UM)
    assert tissue.classes is not None
    planted = getattr(scene, kind.name.lower()) & tissue.mask
    found = tissue.classes == kind
    assert (found & planted).sum() > least * planted.sum()
    assert (found & ~ndimage.binary_dilation(planted, iterations=6)).sum() < 0.2 * found.sum() + 50
    clean = find_tissue(make_scene("plain", seed=1, shape=SHAPE).render(), UM)
    assert clean.classes is not None and (clean.classes == kind).mean() < 0.01


@pytest.mark.parametrize("name", sorted(drawn_slides()))
def test_agrees_with_truth_drawn_by_eye(name: str, real_slide: Callable[[str], Path]) -> None:
    drawn: DrawnSlide = drawn_slides()[name]
    mpp = min(drawn.mpp, 14.0)
    with open_slide(real_slide(drawn.file), mpp=mpp) as slide:
        view = slide.overview(max(8.0, mpp))
    result = score(find_tissue(view, drawn.raster_um).mask, drawn.raster(), drawn.raster_um)
    assert result.iou > 0.97, result
    assert result.tissue_tiles_kept >= 0.98 and result.glass_tiles_kept <= 0.03, result


def test_is_the_same_at_any_scale_and_says_what_it_did() -> None:
    view = make_scene("dirty", seed=2, shape=(280, 380)).render()
    fine = find_tissue(np.kron(view, np.ones((2, 2, 1), np.uint8)), UM / 2)
    same = find_tissue(view, UM)
    assert fine.mask.shape == same.mask.shape == (280, 380)
    assert (fine.mask != same.mask).mean() < 0.002
    again = find_tissue(view, UM)
    assert np.array_equal(again.mask, same.mask) and again.parameters == same.parameters
    assert json.loads(json.dumps(same.parameters)) == same.parameters
    assert find_tissue(view, None).mask.shape == (280, 380)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (100, 100, 3), (3, 400, 3)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_pictures_of_any_size_are_empty(shape: tuple[int, ...], level: int) -> None:
    tissue = find_tissue(np.full(shape, level, np.uint8), UM)
    assert not tissue.mask.any()
    json.dumps(tissue.parameters, allow_nan=False)


def test_colours_that_no_stain_has_are_no_error() -> None:
    drawn = Image.fromarray(draw_slide(2, 2048)[1])
    wrong = drawn.convert("YCbCr").resize((128, 128), Image.Resampling.BOX)  # a JPEG whose label says RGB
    json.dumps(find_tissue(np.asarray(wrong), UM).parameters, allow_nan=False)


def test_a_tiny_slide_is_judged_too() -> None:
    view = make_scene("all tissue", seed=3, shape=(100, 100)).render()
    assert find_tissue(view, 0.5).mask.mean() > 0.95
    assert find_tissue(view, UM).mask.mean() > 0.95


def test_the_largest_slide_is_quick_and_small() -> None:
    piece = make_scene("dirty", seed=4, shape=(430, 610)).render()
    view = np.tile(piece, (4, 6, 1))  # 117,000 x 55,000 pixels at 0.25, seen at 8 microns per pixel
    tracemalloc.start()
    started = time.process_time()
    find_tissue(view, 8.0)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 300e6


def test_fractions_of_a_box_by_class() -> None:
    classes = np.zeros((10, 10), np.uint8)
    classes[:5, :5] = TissueClass.PEN
    classes[5:, :5] = TissueClass.BLUR
    tissue = Tissue(classes > 0, classes)
    fractions = qc_fractions(tissue, np.array([[0.0, 0.0, 100.0, 50.0], [0.0, 0.0, 50.0, 100.0]]), (100, 100))
    assert fractions["pen"].tolist() == [0.5, 0.5] and fractions["blur"].tolist() == [0.0, 0.5]
    assert set(fractions) == {"pen", "blur", "fold", "fat"} and fractions["fat"].dtype == np.float32
    assert qc_fractions(Tissue(tissue.mask), np.zeros((1, 4)), (100, 100)) == {}


def grainy_tiles(count: int) -> np.ndarray:
    grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (count, 96, 96)), (0, 1.2, 1.2))
    return np.clip(170 + 90 * grain[..., None].repeat(3, axis=3), 0, 255)


@pytest.mark.parametrize("depth", [0.3, 1.0])
def test_blurred_tiles_stand_out_from_the_slide(depth: float) -> None:
    tiles = 220 - depth * (220 - grainy_tiles(14))
    tiles[8:11] = ndimage.gaussian_filter(tiles[8:11], (0, 2, 2, 0))
    tiles[11:13] = ndimage.gaussian_filter(tiles[11:13], (0, 2.5, 2.5, 0))
    tiles[13] = 243
    measured = [sharpness(tile.astype(np.uint8)) for tile in tiles]
    scores = blur_scores(measured, unknown=np.full(14, 0.25))
    assert scores.dtype == np.float32 and (scores[:8] < 0.3).all() and (scores[8:11] > 0.5).all()
    assert np.isnan(measured[13]) and scores[13] == 0.25


@pytest.mark.parametrize("shape", [(256, 256), (131, 257), (96, 70), (33, 32)])
def test_sharpness_is_that_of_its_lines_in_any_company(shape: tuple[int, int]) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (5, *shape, 3)).astype(np.uint8)
    tiles[3] = 200
    step = max(32, min(shape) // 4)
    starts = np.arange(min(shape) // step) * step
    length = len(starts) * step
    expected = []
    for tile in tiles.astype(float).sum(axis=3):
        rows = tile[starts, :length] + tile[starts + 1, :length]
        columns = (tile[:length, starts] + tile[:length, starts + 1]).T
        lines, details = np.concatenate([rows, columns]), []
        for pixels in (2, 4, 8):
            means = lines[:, : length // pixels * pixels].reshape(len(lines), -1, pixels).mean(axis=2) / 6
            details.append((np.diff(means, n=2) ** 2).mean())
        fine, middle, coarse = details
        expected.append(np.sqrt(max(fine - 0.49, 0) / (0.7 * middle + 0.3 * coarse)) if coarse >= 16 else np.nan)
    together = sharpness_along(np.stack([line_pairs(tile) for tile in tiles]))
    assert np.allclose(together, expected, rtol=1e-12, equal_nan=True)
    assert np.array_equal([sharpness(tile) for tile in tiles], together, equal_nan=True)
    assert np.isnan(together[3]) and not np.isnan(together[:3]).any()


def test_what_cannot_be_judged_is_not_called_blurred() -> None:
    assert blur_scores([np.nan, np.nan]).tolist() == [0, 0]
    assert np.isnan(sharpness(np.zeros((31, 40, 3), np.uint8)))
    scores = blur_scores([0.3, 0.3, 0.3, 0.9], trusted=np.array([False, False, False, True]))
    assert scores[0] > 0.9 and scores[3] == 0
