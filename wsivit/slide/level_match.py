"""Whether one picture of a slide is another one made smaller, and by what factor: decided by their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.slide.backend import Pixels, UnreadableBlockError
from wsivit.slide.tiff_level import TiledLevel

Factor: TypeAlias = tuple[float, float]

_WINDOW = 96  # pixels of the coarser picture along one side of a place
_SOURCE = 1536  # and of the finer one, at most
_FEW = 4  # tiles
_INTEGERS = 8  # integers tried as the factor of a padded picture, besides powers of two
_VISIBLE = 8.0  # grey levels of variation that padding does not have
_PLACES = 3  # heaviest tiles of each part of the picture
_FLAT = 2.0  # grey levels: what varies less says nothing
_DETAIL = 21  # pixels: what is coarser, like the outline of a round piece of tissue, many pictures share
_ALIKE = 0.25  # correlation of details: real levels have 0.32 (every 16th pixel) to 1, other tissue -0.1 to 0.1
_CERTAIN = 0.6  # correlation that few pixels must have
_ENOUGH = 12288  # pixels, as three tiles of 64 have
_MORE = 32  # tiles looked at where the heaviest show too little
_FAINT = 1.0  # grey levels of detail that are no more than rounding: then the outlines must do
_TINTED = 40.0  # grey levels by which a channel's mean may differ
_UNDECIDED = 0.01  # correlation that does not tell two factors apart


class _Window(NamedTuple):
    """Some pixels of a picture, and where in it they lie; `spare`: only for want of others."""

    x: int
    y: int
    pixels: Pixels
    spare: bool = False


class Match(NamedTuple):
    """Whether pictures agree, None with nothing to compare; and level-0 pixels per pixel of the coarser one."""

    agrees: bool | None
    factor: Factor


def fits(full: tuple[int, int], small: tuple[int, int], tile: tuple[int, int]) -> bool:
    """Whether one picture can be another one made smaller, going by their sizes, padded to complete tiles or not."""
    return small[0] < full[0] and small[1] < full[1] and bool(_factors(full, small, tile))


def match(finer: list[TiledLevel], coarse: TiledLevel) -> Match:
    """Compare a picture with the last of the levels that are finer, at every factor that its size allows."""
    factors = _factors(finer[0].size, coarse.size, (coarse.block_width, coarse.block_height))
    if not factors:
        return Match(False, (1.0, 1.0))
    fine = finer[-1].level
    relative = [(x / fine.downsample_x, y / fine.downsample_y) for x, y in factors]
    known: list[list[float]] = [[] for _ in factors]
    compared = [0] * len(factors)  # pixels
    for window in _windows(coarse):
        if window.spare and max(compared) >= _ENOUGH:
            break
        for index, factor in enumerate(relative):
            score = _score(finer[-1], window, factor)
            if score is not None:
                known[index].append(score)
                compared[index] += window.pixels.shape[0] * window.pixels.shape[1]
    if not any(known):
        return Match(None, factors[0])
    means = [float(np.mean(row)) if row else -1.0 for row in known]
    chosen = next(index for index, mean in enumerate(means) if mean > max(means) - _UNDECIDED)
    median = float(np.median(known[chosen]))
    # What little there is may be alike by chance.
    doubtful = compared[chosen] < _ENOUGH and _ALIKE <= median < _CERTAIN
    return Match(None if doubtful else median >= _ALIKE, factors[chosen])


def rescale(tiled: TiledLevel, full: tuple[int, int], factor: Factor) -> None:
    """Give a level its factor, and the size that is not padding."""
    sides = [
        min(stored, max(1, math.floor(side / f + 1e-6)))
        for stored, side, f in zip(tiled.size, full, factor, strict=True)
    ]
    tiled.level = replace(tiled.level, width=sides[0], height=sides[1], downsample_x=factor[0], downsample_y=factor[1])


def _factors(full: tuple[int, int], small: tuple[int, int], tile: tuple[int, int]) -> list[Factor]:
    """Factors that a size allows, first the one to take where pixels do not decide.

    Where the sides are those of the full picture, up to a pixel's rounding, it is their ratio. Where they are multiples
    of the tile, it may be an integer that leaves less than a tile of padding.
    """
    sides = list(zip(full, small, tile, strict=True))
    ratio = full[0] / small[0], full[1] / small[1]
    if any(k > 0 and all(abs(w / k - s) < 1 for w, s, _ in sides) for k in map(round, ratio)):
        return [ratio]
    factors: list[Factor] = []
    if all(s % n == 0 for _, s, n in sides):
        first = max(w // (s + 1) + 1 for w, s, _ in sides)
        integers = [k for k in range(max(2, first), 4 * first + 1) if all(s - n < -(-w // k) for w, s, n in sides)]
        powers = [k for k in integers if k & (k - 1) == 0]
        factors = [(float(k), float(k)) for k in dict.fromkeys([*powers, *integers[:_INTEGERS]])]
    proportional = abs(full[1] / ratio[0] - small[1]) <= 1 + 0.01 * small[1]
    return [*factors, ratio] if proportional else factors


def _windows(coarse: TiledLevel) -> Iterator[_Window]:
    """What to compare: parts of the heaviest tiles of the picture, and of its right and lower ends; then of others."""
    weights = coarse.weights
    if weights is None or len(weights) != coarse.n_cols * coarse.n_rows:
        return
    grid = np.where(weights > coarse.max_bytes, 0, weights).reshape(coarse.n_rows, coarse.n_cols)
    rows, cols = np.mgrid[0 : coarse.n_rows, 0 : coarse.n_cols]
    seen: set[int] = set()
    parts = [grid, grid * (cols >= 0.6 * coarse.n_cols), grid * (rows >= 0.6 * coarse.n_rows)]
    for part, places in (*((part, _PLACES) for part in parts), (grid, _MORE)):
        for tile in np.argsort(-part, axis=None, kind="stable")[:places].tolist():
            if part.flat[tile] > 0 and tile not in seen:
                seen.add(tile)
                for window in _tile_windows(coarse, *divmod(tile, coarse.n_cols)):
                    yield window._replace(spare=places == _MORE)


def _tile_windows(coarse: TiledLevel, row: int, col: int) -> Iterator[_Window]:
    """The middle of a tile; of a picture of few tiles, that of each quarter."""
    try:
        block = coarse.block(col, row, 1)
    except UnreadableBlockError:
        return
    if block is None:
        return
    left, top = col * coarse.block_width, row * coarse.block_height
    block = block[: coarse.size[1] - top, : coarse.size[0] - left]
    parts = 1 if coarse.n_cols * coarse.n_rows > _FEW else 2
    height, width = block.shape[0] // parts, block.shape[1] // parts
    size = min(_WINDOW, width), min(_WINDOW, height)
    for y in range((height - size[1]) // 2, block.shape[0] - size[1] + 1, max(1, height)):
        for x in range((width - size[0]) // 2, block.shape[1] - size[0] + 1, max(1, width)):
            pixels = block[y : y + size[1], x : x + size[0]]
            if pixels.size:
                yield _Window(left + x, top + y, pixels)


def _score(fine: TiledLevel, window: _Window, factor: Factor) -> float | None:
    """Correlation of a window's details with the finer picture's there; None where that has none or none is to be seen.

    Where colours differ it is -1, and 0 where the window shows something past the finer picture's end.
    """
    height, width = (
        min(n, max(8, int(_SOURCE / f))) for n, f in zip(window.pixels.shape[:2], factor[::-1], strict=True)
    )
    small = window.pixels[:height, :width]
    x, y = window.x * factor[0], window.y * factor[1]
    right, bottom = x + width * factor[0], y + height * factor[1]
    if right > fine.size[0] + factor[0] or bottom > fine.size[1] + factor[1]:
        past = (x + right) / 2 > fine.size[0] or (y + bottom) / 2 > fine.size[1]
        return 0.0 if past and small.std() > _VISIBLE else None
    shrunk = _shrink(fine, (x, y, right, bottom), small.shape)
    if shrunk is None:
        return None
    a, b = small.astype(np.float64), shrunk.astype(np.float64)
    if np.abs(a.mean((0, 1)) - b.mean((0, 1))).max() > _TINTED:
        return -1.0
    a, b = a.mean(axis=2), b.mean(axis=2)
    if max(a.std(), b.std()) < _FLAT:
        return None
    details = _details(a), _details(b)
    if max(detail.std() for detail in details) >= _FAINT:
        a, b = details
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if min(a.std(), b.std()) > 0 else 0.0


def _details(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """A picture (h, w) less its mean around each pixel."""
    around = np.pad(grey, _DETAIL // 2, mode="edge")
    for axis in (0, 1):
        around = np.lib.stride_tricks.sliding_window_view(around, _DETAIL, axis=axis).mean(axis=-1)
    return grey - around


def _shrink(fine: TiledLevel, box: tuple[float, float, float, float], shape: tuple[int, ...]) -> Pixels | None:
    """The mean over each pixel's exact area; None where the finer picture has nothing that can be read."""
    left, top = math.floor(box[0] + 1e-6), math.floor(box[1] + 1e-6)
    right, bottom = min(math.ceil(box[2] - 1e-6), fine.size[0]), min(math.ceil(box[3] - 1e-6), fine.size[1])
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    width, height = fine.block_width, fine.block_height
    try:
        for row in range(top // height, -(-bottom // height)):
            for col in range(left // width, -(-right // width)):
                block = fine.block(col, row, 1)
                if block is None:
                    return None
                x, y = col * width - left, row * height - top
                x0, y0 = max(x, 0), max(y, 0)
                x1, y1 = min(x + block.shape[1], pixels.shape[1]), min(y + block.shape[0], pixels.shape[0])
                if x0 < x1 and y0 < y1:
                    pixels[y0:y1, x0:x1] = block[y0 - y : y1 - y, x0 - x : x1 - x]
    except UnreadableBlockError:
        return None
    edges = (box[0] - left, box[1] - top, min(box[2] - left, right - left), min(box[3] - top, bottom - top))
    return np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.BOX, box=edges))
