"""From densities of stain to colours: textures, Beer-Lambert mixing, pen, dust and the noise of a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wsivit.demo.cells import EOSIN, HEMATOXYLIN, HOLE, Canvas
from wsivit.demo.fields import Blob, FloatArray, Sheet, smooth_noise, smoothstep
from wsivit.demo.regions import Layout

BLOCK = 512
_STRONGEST = 3.0  # optical density (base e) along a stain's unit vector that 255 stands for
# Between the vectors of Ruifrok & Johnston (2001) and of Macenko (2009).
_STAINS = np.array([[0.62, 0.71, 0.33], [0.13, 0.90, 0.38]])
_RED_CELLS = np.array([0.10, 0.78, 0.62])  # where eosin is densest, it is redder
_INKS = np.array([[1.45, 0.80, 0.18], [1.50, 0.45, 0.95]])  # blue, green: optical density of a marker


@dataclass(frozen=True)
class Textures:
    """Periodic noise, made once and looked up everywhere.

    Attributes
    ----------
    fibres : uint8 (1024, 1024)
        Collagen, running along the second axis; its first axis has two samples per pixel.
    grain, ragged, camera : float32 (512, 512)
        Granules of cytoplasm, the fringe of tissue edges, and sensor noise.
    """

    fibres: NDArray[np.uint8]
    grain: FloatArray
    ragged: FloatArray
    camera: FloatArray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Textures:
        """Make the textures of one slide."""
        shape = (1024, 1024)
        wave = 5 * smooth_noise(rng, shape, (40, 26)) + 1.2 * smooth_noise(rng, shape, (20, 11))
        rows = (np.arange(1024)[:, None] + np.rint(2 * wave).astype(np.int64)) % 1024
        scales = ((0.7, 16.0, 70.0), (0.6, 5.0, 50.0), (0.35, 2.2, 26.0))
        strands = sum(weight * smooth_noise(rng, shape, (width, length)) for weight, width, length in scales)
        fibres = np.take_along_axis(np.clip(0.55 + 0.22 * strands, 0, 1), rows, axis=0)
        block = (BLOCK, BLOCK)
        ragged = smooth_noise(rng, block, 9) + 0.5 * smooth_noise(rng, block, 3)
        return cls(
            (fibres * 255).astype(np.uint8),
            smooth_noise(rng, block, 1.1),
            ragged,
            smooth_noise(rng, block, 0.6),
        )


def stain_table(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colour every mixture by the Beer-Lambert law, with this slide's staining; uint8 (65536, 3).

    Row ``256 * hematoxylin + eosin``. Row 0 is the glass. Stain vectors turn by a few degrees and
    strengths change by about a tenth from slide to slide, as they do between batches of a laboratory.
    """
    vectors = np.clip(_STAINS + rng.normal(0, 0.022, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = rng.uniform(0.88, 1.12, 2) * _STRONGEST
    density = np.arange(256)[:, None] / 255
    redness = np.clip((density - 0.35) * 3, 0, 1)
    eosin = strength[1] * density * (vectors[1] * (1 - redness) + _RED_CELLS * redness)
    hematoxylin = strength[0] * density * vectors[0]
    glass = np.array([243.0, 242.0, 243.0]) + rng.uniform(-2.5, 2.5, 3)
    table = glass * np.exp(-(hematoxylin[:, None] + eosin[None, :]))
    colours: NDArray[np.uint8] = np.rint(table).astype(np.uint8).reshape(-1, 3)
    return colours


def develop(canvas: Canvas, layout: Layout, rng: np.random.Generator, *, progress: bool) -> None:
    """Turn the canvas of densities into colours, block by block and in place."""
    textures, table = Textures.draw(rng), stain_table(rng)
    ink = rng.choice(_INKS) * rng.uniform(0.8, 1.1)
    corners = [(x, y) for y in range(0, layout.size, BLOCK) for x in range(0, layout.size, BLOCK)]
    for x, y in tqdm(corners, desc="painting", unit="block", disable=not progress):
        block = canvas[y : y + BLOCK, x : x + BLOCK]
        side = min(block.shape[:2])
        colours = table[_mixture(block, layout.sheet, textures, x, y)[:side, :side]].astype(np.float32)
        colours += 1.6 * np.roll(textures.camera, rng.integers(0, BLOCK, 2), (0, 1))[:side, :side, None]
        pen = layout.sheet.block("pen", x, y, side)
        if pen.max() > -12:
            colours *= np.exp(-_ink_density(pen, layout.sheet, x, y)[..., None] * ink).astype(np.float32)
        block[:] = np.clip(np.rint(colours), 0, 255)


def _mixture(block: Canvas, sheet: Sheet, textures: Textures, x: int, y: int) -> NDArray[np.uint16]:
    """Mix the stains of one block: stamped cells over collagen, none where a hole is; rows of the table."""
    side = block.shape[0]
    tissue = sheet.block("tissue", x, y, side)
    if tissue.max() < -40:
        return np.zeros((side, side), np.uint16)
    ragged, grain = textures.ragged[:side, :side], textures.grain[:side, :side]
    cell = smoothstep(block[..., EOSIN].astype(np.float32), 4, 26)
    fibres = _collagen(sheet, textures, x, y, side)
    nuclear = block[..., HEMATOXYLIN].astype(np.float32)
    loose = 0.05 * sheet.block("nests", x, y, side)
    slits = 1 - 0.92 * smoothstep(fibres + loose, 0.22, 0.08) * (1 - smoothstep(nuclear, 10, 50))
    there = smoothstep(tissue + 7 * ragged, -1.5, 1.5) * (1 - block[..., HOLE] * np.float32(1 / 255))
    there *= cell + (1 - cell) * slits
    dose = there * (1 + 0.12 * sheet.block("thickness", x, y, side))
    dose *= 1 + 1.1 * smoothstep(sheet.block("fold", x, y, side), -3, 5)
    hematoxylin = nuclear + cell * (15 + 4 * grain) + (1 - cell) * (4 + 8 * fibres)
    eosin = block[..., EOSIN] * (1 + 0.10 * grain) + (1 - cell) * (15 + 51 * fibres + 2.5 * grain)
    eosin *= 1 - 0.25 * smoothstep(nuclear, 20, 90)
    mixed = [np.clip(stain * dose, 0, 255).astype(np.uint16) for stain in (hematoxylin, eosin)]
    rows: NDArray[np.uint16] = mixed[0] * np.uint16(256) + mixed[1]
    return rows


def _collagen(sheet: Sheet, textures: Textures, x: int, y: int, side: int) -> FloatArray:
    """Look the fibres up in coordinates that bend with the tissue; float32 in [0, 1]."""
    across = (2 * sheet.block("across", x, y, side)).astype(np.int32) & 1023
    along = sheet.block("along", x, y, side).astype(np.int32) & 1023
    fibres: FloatArray = textures.fibres[across, along] * np.float32(1 / 255)
    return fibres


def _ink_density(pen: FloatArray, sheet: Sheet, x: int, y: int) -> FloatArray:
    """Give a stroke of the marker soft edges, a darker rim, and streaks where it ran dry."""
    streak = 1 + 0.14 * sheet.block("crowd", x, y, pen.shape[0])
    rim = np.exp(-(((pen - 9) / 8) ** 2)).astype(np.float32)
    density: FloatArray = smoothstep(pen, -9, 9) * (0.8 + 0.35 * rim) * np.clip(streak, 0.5, 1.5)
    return density


def add_dust(canvas: Canvas, rng: np.random.Generator) -> None:
    """Drop a few dark specks anywhere on the slide, out of focus as dust on a cover slip is."""
    size = canvas.shape[0]
    for _ in range(4 + size // 512):
        x, y = rng.uniform(30, size - 30, 2)
        speck = Blob.random(rng, x, y, rng.uniform(3, 12), 0.5)
        rows, cols, depth = speck.window(8, size)
        shade = 1 - rng.uniform(0.35, 0.8) * np.clip(depth / 7 + 0.5, 0, 1)
        canvas[rows, cols] = np.rint(canvas[rows, cols] * shade[..., None])
