"""Procedural low-power slides with exact truth: stains, layouts, and everything that is not tissue.

A picture is made of stain concentrations and absorbances over glass, as light passes through a slide: tissue first,
then folds, ink, dust and edges on top, then focus, noise and JPEG. `Scene` holds the picture and what is where.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Array = NDArray[np.float64]
Bool = NDArray[np.bool_]

UM = 8.0
# Absorbance (natural log) per unit of stain, red, green, blue.
HEMATOXYLIN, EOSIN, DAB = (1.5, 1.6, 0.66), (0.16, 2.3, 0.25), (0.62, 1.31, 1.8)
STAINS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    # (nuclear stain, background stain, strength)
    "he": (HEMATOXYLIN, EOSIN, 1.0),
    "he-pale": (HEMATOXYLIN, EOSIN, 0.35),
    "he-dark": (HEMATOXYLIN, EOSIN, 2.2),
    "he-faded-pink": ((0.5, 1.2, 0.5), EOSIN, 0.5),
    "pas": ((1.2, 1.4, 0.7), (0.45, 2.0, 0.7), 0.9),
    "pasd-pale": ((1.2, 1.35, 0.6), (0.45, 0.7, 0.35), 0.45),
    "ihc": (DAB, (0.9, 0.8, 0.45), 0.6),
    "ihc-negative": ((1.1, 1.0, 0.5), (0.7, 0.65, 0.4), 0.35),
    "trichrome": ((1.6, 1.7, 0.9), (1.7, 0.9, 0.35), 0.9),
    "silver": ((1.6, 1.6, 1.7), (0.55, 0.65, 0.85), 0.7),
    "alcian": ((1.7, 0.7, 0.4), (0.9, 0.45, 0.25), 0.6),
}
PENS = {
    "green": (1.9, 0.5, 1.4),
    "blue": (2.4, 1.6, 0.35),
    "black": (1.9, 1.9, 1.8),
    "red": (0.12, 1.7, 1.6),
    "purple": (1.1, 2.2, 0.5),
}


@dataclass
class Scene:
    """A slide in the making: absorbance over glass and, per pixel, what is really there."""

    rng: np.random.Generator
    density: Array
    tissue: Bool
    glass: tuple[float, float, float] = (243.0, 243.0, 243.0)
    pen: Bool = field(init=False)
    fold: Bool = field(init=False)
    blur: Bool = field(init=False)
    fat: Bool = field(init=False)
    unjudged: Bool = field(init=False)
    finish: list[Callable[[Array], Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("pen", "fold", "blur", "fat", "unjudged"):
            setattr(self, name, np.zeros_like(self.tissue))

    @property
    def shape(self) -> tuple[int, int]:
        return self.tissue.shape  # type: ignore[return-value]

    def render(self) -> NDArray[np.uint8]:
        """Light through the slide, the scanner's focus and noise, JPEG."""
        light = np.asarray(self.glass) * np.exp(-self.density)
        light = ndimage.gaussian_filter(light, (0.6, 0.6, 0))
        if self.blur.any():
            soft = ndimage.gaussian_filter(light, (3.5, 3.5, 0))
            weight = ndimage.gaussian_filter(self.blur.astype(float), 4)[..., None]
            light = light * (1 - weight) + soft * weight
        light = light + self.rng.normal(0, 0.8, light.shape)
        for step in self.finish:
            light = step(light)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(np.rint(light), 0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=80)
        return np.asarray(Image.open(buffer))


def noise(rng: np.random.Generator, shape: tuple[int, int], um: float) -> Array:
    """Smooth noise of mean 0, deviation 1 and a grain of `um`."""
    coarse = max(1, int(um / UM / 3))
    small = (shape[0] // coarse + 2, shape[1] // coarse + 2)
    grain = ndimage.gaussian_filter(rng.normal(size=small), um / UM / coarse, mode="wrap")
    enlarged = ndimage.zoom(grain, coarse, order=1)[: shape[0], : shape[1]]
    return (enlarged - enlarged.mean()) / enlarged.std()


def blobs(rng: np.random.Generator, shape: tuple[int, int], centres: list[tuple[float, float, float, float]]) -> Bool:
    """Ragged ellipses; each centre is x, y, half width, half height, as shares of the picture."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    bends, rags = 0.10 * noise(rng, shape, 400), 25 * noise(rng, shape, 60) + 12 * noise(rng, shape, 16)
    inside = np.zeros(shape, bool)
    for cx, cy, rx, ry in centres:
        radius = np.hypot((x / shape[1] - cx) / rx, (y / shape[0] - cy) / ry)
        inside |= radius * (1 + bends) + rags / (UM * min(rx * shape[1], ry * shape[0])) < 1
    return inside


def cores(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Bool:
    """Needle biopsies: bent strips of about a millimetre."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    inside = np.zeros(shape, bool)
    for i in range(count):
        middle = shape[0] * (i + 1) / (count + 1) + 35 * np.sin(x / shape[1] * 3 + rng.uniform(0, 6))
        half = 0.45 * 1000 / UM / 2 * (1 + 0.25 * noise(rng, shape, 120))
        inside |= (np.abs(y - middle) < half) & (x > shape[1] * 0.07) & (x < shape[1] * rng.uniform(0.8, 0.95))
    return inside


def stain(rng: np.random.Generator, tissue: Bool, name: str) -> Array:
    """Absorbance of tissue: coarse regions, fibres or cells, nuclei, pale lumens; ``smooth`` is like liver."""
    name, grain = (name.removesuffix(" smooth"), 0.25) if name.endswith(" smooth") else (name, 1.0)
    nuclear, background, strength = STAINS[name]
    shape = tissue.shape
    region = 1 + 0.35 * np.tanh(noise(rng, shape, 500))
    cells = np.clip(0.30 + grain * (0.10 * noise(rng, shape, 24) + 0.09 * noise(rng, shape, 8)), 0.02, None)
    nuclei = np.clip(
        0.16 * region + 0.13 * grain * noise(rng, shape, 8) * (1 + 0.4 * noise(rng, shape, 200)), 0.01, 1.2
    )
    lumens = ndimage.gaussian_filter((noise(rng, shape, 40) > 1.9).astype(float), 0.7)
    amount = strength * (1 - 0.9 * lumens)[..., None] * tissue[..., None]
    return amount * (cells[..., None] * np.asarray(background) + nuclei[..., None] * np.asarray(nuclear))


def lace(rng: np.random.Generator, area: Bool, cell_um: float = 90.0) -> Array:
    """Fat: thin walls between empty cells, as a share of full stain."""
    points = (rng.random((int(area.size * UM**2 / cell_um**2), 2)) * area.shape).astype(int)
    elsewhere = np.ones(area.shape, bool)
    elsewhere[tuple(points.T)] = False
    nearest = ndimage.distance_transform_edt(elsewhere, return_distances=False, return_indices=True)
    cell = nearest[0] * area.shape[1] + nearest[1]
    wall = (ndimage.maximum_filter(cell, 2) != ndimage.minimum_filter(cell, 2)) & area
    return ndimage.gaussian_filter(wall.astype(float), 0.5)


def stroke(shape: tuple[int, int], points: list[tuple[float, float]], width_um: float) -> Bool:
    """A round brush along a polyline, points as shares of the picture."""
    line = np.ones(shape, bool)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        steps = 4 * max(shape)
        x = np.linspace(x0, x1, steps) * (shape[1] - 1)
        y = np.linspace(y0, y1, steps) * (shape[0] - 1)
        line[np.clip(y, 0, shape[0] - 1).astype(int), np.clip(x, 0, shape[1] - 1).astype(int)] = False
    return ndimage.distance_transform_edt(line) * UM <= width_um / 2


# --- what can be on a slide besides tissue: each takes a scene and changes it


def add_pen(scene: Scene, colour: str, points: list[tuple[float, float]], width_um: float = 700.0) -> None:
    ink = stroke(scene.shape, points, width_um)
    streaks = np.clip(0.75 + 0.12 * noise(scene.rng, scene.shape, 250), 0.3, 1.2)
    soft = ndimage.gaussian_filter(ink.astype(float), 0.8) * streaks
    scene.density += soft[..., None] * np.asarray(PENS[colour])
    scene.pen |= ink


def add_dust(scene: Scene, count: int = 25) -> None:
    y, x = np.mgrid[0 : scene.shape[0], 0 : scene.shape[1]]
    for _ in range(count):
        cy, cx = scene.rng.random(2) * scene.shape
        radius = scene.rng.uniform(1.5, 7)
        dark = scene.rng.uniform(0.05, 0.5)
        scene.density += (dark * np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / radius**2)))[..., None]


def add_scratches(scene: Scene, count: int = 4) -> None:
    for _ in range(count):
        ends = [tuple(scene.rng.random(2)) for _ in range(3)]
        line = ndimage.gaussian_filter(stroke(scene.shape, ends, 18).astype(float), 0.7)
        scene.density += (scene.rng.uniform(0.05, 0.35) * line)[..., None]


def add_bubbles(scene: Scene, count: int = 4) -> None:
    y, x = np.mgrid[0 : scene.shape[0], 0 : scene.shape[1]]
    for _ in range(count):
        cy, cx = scene.rng.random(2) * scene.shape
        ring = np.abs(np.hypot(x - cx, y - cy) - scene.rng.uniform(15, 70))
        scene.density += (0.35 * np.exp(-((ring / 1.6) ** 2)) - 0.05 * np.exp(-(((ring - 4) / 2) ** 2)))[..., None]


def add_coverslip(scene: Scene) -> None:
    x = np.arange(scene.shape[1])[None, :] + 0.03 * np.arange(scene.shape[0])[:, None]
    edge = scene.shape[1] * 0.93
    scene.density += (0.30 * np.exp(-(((x - edge) / 2.5) ** 2)) + 0.035 * (x > edge))[..., None]


def add_fold(scene: Scene, points: list[tuple[float, float]], width_um: float = 150.0) -> None:
    fold = stroke(scene.shape, points, width_um) & ndimage.binary_erosion(scene.tissue, iterations=6)
    scene.density[fold] *= 2.3
    scene.fold |= fold


def add_fat(scene: Scene, centre: tuple[float, float, float, float], stain_name: str = "he") -> None:
    area = blobs(scene.rng, scene.shape, [centre]) & ~scene.tissue
    _, background, strength = STAINS[stain_name]
    scene.density += 0.35 * strength * lace(scene.rng, area)[..., None] * np.asarray(background)
    scene.fat |= area
    scene.unjudged |= area


def add_haze(scene: Scene) -> None:
    """Stained film around the tissue: what Otsu on saturation takes for tissue."""
    reach = ndimage.distance_transform_edt(~scene.tissue) * UM
    film = np.exp(-reach / 500) * (0.6 + 0.2 * noise(scene.rng, scene.shape, 600)) * ~scene.tissue
    scene.density += 0.016 * film[..., None] * np.asarray(EOSIN)


def add_blur(scene: Scene, centre: tuple[float, float, float, float]) -> None:
    scene.blur |= blobs(scene.rng, scene.shape, [centre])


def add_border(scene: Scene, side: int = 40) -> None:
    """A black frame and corner, as where a scanner saw no slide."""
    frame = np.ones(scene.shape, bool)
    frame[side:-side, side // 2 : -side // 3] = False

    def blacken(light: Array) -> Array:
        light[frame] = scene.rng.normal(4, 1.5, (int(frame.sum()), 3))
        return light

    scene.finish.append(blacken)
    scene.tissue &= ~frame
    scene.unjudged |= ndimage.binary_dilation(frame, iterations=4) & ~frame


def add_gaps(scene: Scene, value: float = 255.0) -> None:
    """White fill outside the scanned fields, and lines of it between them."""
    fields = np.zeros(scene.shape, bool)
    step = 150
    occupied = ndimage.binary_dilation(scene.tissue, iterations=10)
    for top in range(0, scene.shape[0], step):
        for left in range(0, scene.shape[1], step):
            window = np.s_[top : top + step, left : left + step]
            fields[window] = occupied[window].any()
    fields[::step] = fields[:, ::step] = False

    def fill(light: Array) -> Array:
        light[~fields] = value
        return light

    scene.finish.append(fill)
    scene.unjudged |= scene.tissue & ~ndimage.binary_erosion(fields, iterations=2)


def add_vignette(scene: Scene, depth: float = 0.12) -> None:
    """Uneven light: darker to one corner and a little yellower."""
    y, x = np.mgrid[0 : scene.shape[0], 0 : scene.shape[1]]
    fall = depth * ((x / scene.shape[1]) ** 2 + 0.5 * (y / scene.shape[0]))
    scene.density += fall[..., None] * np.array([0.9, 1.0, 1.25])


# --- scenes

LAYOUTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Bool]] = {
    "resection": lambda rng, shape: blobs(rng, shape, [(0.5, 0.5, 0.36, 0.34)]),
    "pieces": lambda rng, shape: blobs(
        rng, shape, [(0.2, 0.25, 0.12, 0.14), (0.6, 0.3, 0.16, 0.12), (0.35, 0.72, 0.2, 0.14), (0.8, 0.75, 0.1, 0.12)]
    ),
    "cores": lambda rng, shape: cores(rng, shape, 3),
    "crumbs": lambda rng, shape: blobs(
        rng, shape, [(x, y, 0.022, 0.026) for x in (0.15, 0.38, 0.6, 0.83) for y in (0.2, 0.5, 0.8)]
    ),
    "all": lambda rng, shape: np.ones(shape, bool),
    "nothing": lambda rng, shape: np.zeros(shape, bool),
}
AROUND = [(0.08, 0.1), (0.5, 0.05), (0.93, 0.12), (0.95, 0.6)]
ACROSS = [(0.05, 0.9), (0.45, 0.45), (0.9, 0.3)]
Extra = Callable[[Scene], None]

SCENES: dict[str, tuple[str, str, tuple[float, float, float], tuple[Extra, ...]]] = {
    # name: stain, layout, glass, what else
    "plain": ("he", "resection", (243, 243, 243), ()),
    "pale": ("he-pale", "pieces", (243, 243, 243), (add_haze, add_dust)),
    "smooth": ("he smooth", "resection", (243, 243, 243), (add_dust,)),
    "smooth pale": ("he-pale smooth", "pieces", (243, 243, 243), (add_dust, add_haze)),
    "dark": ("he-dark", "resection", (240, 240, 240), ()),
    "faded": ("he-faded-pink", "pieces", (246, 244, 245), (add_haze,)),
    "pas": ("pas", "cores", (243, 243, 243), (add_haze, add_dust)),
    "pasd": ("pasd-pale", "cores", (243, 243, 243), (add_haze, add_dust)),
    "ihc": ("ihc", "pieces", (240, 241, 243), (add_dust,)),
    "ihc negative": ("ihc-negative", "resection", (240, 241, 243), (add_dust,)),
    "trichrome": ("trichrome", "pieces", (244, 244, 244), (add_dust,)),
    "silver": ("silver", "cores", (240, 236, 228), (add_dust,)),
    "alcian": ("alcian", "resection", (244, 244, 244), (add_dust,)),
    "grey glass": ("he", "pieces", (196, 197, 199), (add_dust, add_scratches)),
    "tinted glass": ("he", "pieces", (238, 226, 196), (add_dust,)),
    "uneven light": ("he-pale", "pieces", (238, 238, 238), (add_vignette, add_dust)),
    "dirty": ("he", "pieces", (243, 243, 243), (lambda s: add_dust(s, 120), add_scratches, add_bubbles, add_coverslip)),
    "dirty pale": ("pasd-pale", "cores", (243, 243, 243), (lambda s: add_dust(s, 80), add_scratches, add_bubbles)),
    "black border": ("he", "pieces", (235, 235, 235), (add_border, add_dust)),
    "white fill": ("he", "pieces", (236, 233, 237), (add_gaps,)),
    "black fill": ("he", "pieces", (236, 233, 237), (lambda s: add_gaps(s, 0.0),)),
    "pen green": ("he", "pieces", (243, 243, 243), (lambda s: add_pen(s, "green", AROUND),)),
    "pen blue": ("he", "pieces", (243, 243, 243), (lambda s: add_pen(s, "blue", AROUND),)),
    "pen black": ("he", "pieces", (243, 243, 243), (lambda s: add_pen(s, "black", AROUND),)),
    "pen red": ("he", "pieces", (243, 243, 243), (lambda s: add_pen(s, "red", AROUND),)),
    "pen purple": ("he", "pieces", (243, 243, 243), (lambda s: add_pen(s, "purple", AROUND),)),
    "pen by smooth tissue": ("he smooth", "pieces", (243, 243, 243), (lambda s: add_pen(s, "blue", AROUND),)),
    "pen on ihc": ("ihc", "pieces", (243, 243, 243), (lambda s: add_pen(s, "blue", AROUND),)),
    "pen, small biopsy": ("he", "crumbs", (243, 243, 243), (lambda s: add_pen(s, "blue", AROUND, 1000),)),
    "pen over tissue": ("he", "resection", (243, 243, 243), (lambda s: add_pen(s, "green", ACROSS),)),
    "black pen over tissue": ("he", "resection", (243, 243, 243), (lambda s: add_pen(s, "black", ACROSS),)),
    "fold": ("he", "resection", (243, 243, 243), (lambda s: add_fold(s, [(0.3, 0.3), (0.5, 0.6), (0.7, 0.55)]),)),
    "blur": ("he", "resection", (243, 243, 243), (lambda s: add_blur(s, (0.35, 0.5, 0.2, 0.22)),)),
    "fat": ("he", "pieces", (243, 243, 243), (lambda s: add_fat(s, (0.5, 0.5, 0.25, 0.2)),)),
    "crumbs": ("he", "crumbs", (243, 243, 243), (add_dust,)),
    "all tissue": ("he", "all", (243, 243, 243), ()),
    "all pale tissue": ("he-pale", "all", (243, 243, 243), ()),
    "nothing": ("he", "nothing", (243, 243, 243), ()),
    "nothing but dirt": ("he", "nothing", (240, 240, 238), (add_dust, add_scratches, add_coverslip)),
    "nothing but pen": ("he", "nothing", (243, 243, 243), (lambda s: add_pen(s, "blue", AROUND),)),
}  # fmt: skip


WITHIN = [(0.35, 0.42), (0.5, 0.55), (0.62, 0.45)]


def _pen(colour: str, points: list[tuple[float, float]], width_um: float) -> tuple[Extra, ...]:
    return (lambda scene: add_pen(scene, colour, points, width_um),)


CLEAR = (243, 243, 243)
# Harder pen, not in the table with the peers: without glass on either side, and on slides of one and two millimetres.
PEN_SCENES: dict[str, tuple[str, str, tuple[float, float, float], tuple[Extra, ...]]] = {
    **{
        f"{colour} within {stain_name}": (stain_name, "resection", CLEAR, _pen(colour, WITHIN, 500))
        for colour in PENS
        for stain_name in ("he", "he-pale", "he smooth", "pas", "ihc")
    },
    **{f"{colour} within, small": ("he", "resection", CLEAR, _pen(colour, WITHIN, 200)) for colour in PENS},
    **{f"{colour} around, small": ("he", "resection", CLEAR, _pen(colour, AROUND, 250)) for colour in PENS},
    **{f"{colour} across, small": ("he", "resection", CLEAR, _pen(colour, ACROSS, 250)) for colour in PENS},
    **{f"{colour} across, tiny": ("he", "resection", CLEAR, _pen(colour, ACROSS, 120)) for colour in PENS},
}
SMALL = {"small": (256, 256), "tiny": (128, 128)}


def make_pen_scene(name: str, seed: int = 0) -> Scene:
    """Build a scene of `PEN_SCENES`: 5 x 6.7 mm, or of 2 mm (small) or 1 mm (tiny) where its name says so."""
    return make_scene(name, seed, SMALL.get(name.rpartition(", ")[2], (620, 840)))


def make_scene(name: str, seed: int = 0, shape: tuple[int, int] = (620, 840)) -> Scene:
    """Build a named scene; the same seed always gives the same picture."""
    stain_name, layout, glass, extras = (SCENES | PEN_SCENES)[name]
    rng = np.random.default_rng([seed, *name.encode()])
    tissue = LAYOUTS[layout](rng, shape)
    scene = Scene(rng, stain(rng, tissue, stain_name), tissue, glass)
    for extra in extras:
        extra(scene)
    return scene
