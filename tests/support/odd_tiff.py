"""TIFFs of every odd structure that the format allows, with known pixels: what to write, and what must come out.

Nothing here uses the library: `Truth` is the writer's own record, and `check_written` reads it back by the
specification with tifffile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_OME = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'
_PIXELS = (
    '<Image ID="Image:{n}" Name="{name}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint8" SizeX="{w}" '
    'SizeY="{h}" SizeC="3" SizeZ="1" SizeT="1"{scale}>{channels}{planes}</Pixels></Image>'
)
_OME_UNITS = {"um": ("µm", 1.0), "nm": ("nm", 1e3), "mm": ("mm", 1e-3), "default": ("", 1.0)}
_SIZES = ((420, 360), (512, 384), (333, 517), (640, 300), (385, 449), (700, 620))


@cache
def paint(seed: int, width: int, height: int) -> Picture:
    """Pink structures of several sizes in one large piece of tissue on bright ground; others for each seed."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width))
    shape = sum(ndimage.gaussian_filter(noise, sigma) * sigma for sigma in (4, 9, 20))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    middle = rng.uniform(-0.15, 0.15, 2)
    tissue = 1 / (1 + np.exp(20 * (np.hypot(x - middle[0], y - middle[1]) - 0.75)))
    dark = (tissue * np.clip(85 + 40 * shape / shape.std(), 20, 160))[..., None]
    picture = np.rint(np.array([242, 240, 243]) - dark * np.array([0.4, 1.0, 0.55])).astype(np.uint8)
    picture.flags.writeable = False
    return picture


def shrink(picture: Picture, factor: int) -> Picture:
    """The mean of whole squares of pixels."""
    height, width = (side // factor for side in picture.shape[:2])
    squares = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return np.rint(squares.mean((1, 3))).astype(np.uint8)


@dataclass(frozen=True)
class Odd:
    """How one file is written.

    Attributes
    ----------
    factors : tuple of int
        Of its levels, level 0 not counted.
    dialect : {"generic", "ome", "aperio"}
    below : bool
        Levels are SubIFDs; else they follow in the chain.
    marked : bool
        Levels have NewSubfileType 1.
    order : int
        Seed of the order of the directories.
    holes : tuple of (int, int, str)
        Level, seed of which tiles, and how the index leaves them out.
    scene : str
        A second picture: none, or of what size.
    aside : tuple of str
        Thumbnail, label and macro that the file has.
    """

    seed: int
    size: tuple[int, int]
    tile: tuple[int, int]
    factors: tuple[int, ...]
    dialect: str
    below: bool
    marked: bool
    order: int
    colors: str
    compression: str
    strips: str
    padded: str
    holes: tuple[tuple[int, int, str], ...]
    scene: str
    aside: tuple[str, ...]
    unit: str
    mpp: float
    bigtiff: bool
    byteorder: str


@st.composite
def odd_tiffs(draw: st.DrawFn) -> Odd:
    """Draw a file that a program could have written: what contradicts itself is left out."""
    dialect = draw(st.sampled_from(["generic", "generic", "ome", "ome", "aperio"]))
    aperio = dialect == "aperio"
    colors = draw(st.sampled_from(["rgb", "rgb", "planar", "grey planes"])) if not aperio else "rgb"
    if colors == "grey planes" and dialect != "ome":
        colors = "rgb"
    strips = "none" if aperio else draw(st.sampled_from(["none"] * 6 + ["all", "last level"]))
    jpeg = ["jpeg"] if colors == "rgb" or strips == "none" else []
    factors = draw(st.sampled_from([(), (2,), (4,), (2, 4), (3,), (2, 4, 8), (4, 8)]))
    n_holes = draw(st.integers(0, 2))
    how = st.sampled_from(["both", "count", "offset"])
    holes = tuple((draw(st.integers(0, len(factors))), draw(st.integers(0, 99)), draw(how)) for _ in range(n_holes))
    unit = "aperio" if aperio else draw(st.sampled_from([*_OME_UNITS] if dialect == "ome" else ["cm", "inch", "none"]))
    return Odd(
        seed=draw(st.integers(0, 7)),
        size=draw(st.sampled_from(_SIZES)),
        tile=draw(st.sampled_from([(64, 64), (32, 32), (64, 32), (48, 80), (128, 128)])),
        factors=factors,
        dialect=dialect,
        below=not aperio and (colors == "grey planes" or draw(st.booleans())),
        marked=not aperio and draw(st.booleans()),
        order=0 if aperio else draw(st.integers(0, 30)),
        colors=colors,
        # tifffile cannot read back what it writes of single colours in strips of JPEG.
        compression="jpeg" if aperio else draw(st.sampled_from(["deflate", "deflate", "lzw", "zstd", "none", *jpeg])),
        strips=strips,
        padded=draw(st.sampled_from(["no", "no", "edge", "white"])) if strips == "none" and not aperio else "no",
        holes=holes,
        scene="none" if aperio else draw(st.sampled_from(["none", "none", "same", "half", "small"])),
        aside=("thumbnail", *draw(st.sampled_from([(), ("label", "macro")]))) if aperio
        else tuple(draw(st.sampled_from([(), (), ("thumbnail",), ("label",), ("label", "macro", "thumbnail")]))),
        unit=unit,
        mpp=draw(st.sampled_from([1.0, 2.0, 1.9448])),
        bigtiff=draw(st.booleans()),
        byteorder="<" if aperio else draw(st.sampled_from("<<>")),
    )  # fmt: skip


@dataclass
class Written:
    """One level as it stands in the file: its pixels without padding, and which of them are stored."""

    factor: int
    pixels: Picture
    stored: Mask
    name: str
    striped: bool = False
    where: tuple[int, int] = (0, 0)
    """Place in the chain, and 0 or the number of the SubIFD."""


@dataclass
class Truth:
    """What must come out of a file."""

    odd: Odd
    levels: list[Written] = field(default_factory=list)
    other: tuple[int, int] | None = None
    """Size of the picture that is not the slide, nor label, macro or thumbnail."""

    @property
    def mpp(self) -> float | None:
        return None if self.odd.unit == "none" else self.odd.mpp

    def known(self, number: int) -> Mask:
        """Which pixels of a level are stored there or in a finer level."""
        known = self.levels[0].stored
        for finer, level in zip(self.levels[:number], self.levels[1 : number + 1], strict=True):
            step = level.factor / finer.factor
            y, x = ((np.arange(n) + 0.5) * step for n in level.stored.shape)
            inside = np.minimum(y.astype(int), known.shape[0] - 1), np.minimum(x.astype(int), known.shape[1] - 1)
            known = level.stored | known[np.ix_(*inside)]
        return known


def write_odd(path: Path, odd: Odd) -> Truth:
    """Write the file; what must come out of it."""
    truth = Truth(odd)
    slide = paint(odd.seed, *odd.size)
    groups = [_pyramid("slide", slide, odd)]
    if odd.scene != "none":
        width, height = odd.size
        size = {"same": odd.size, "half": (width // 2, height // 2), "small": (201, 170)}[odd.scene]
        groups.append(_pyramid("scene", paint(odd.seed + 20, *size), odd)[:1])
        truth.other = size
    truth.levels = groups[0]
    chain = _chain(odd, groups)
    n_below = len(odd.factors) if odd.below else 0
    places = np.cumsum([0, *(3 if odd.colors == "grey planes" and e.name in ("slide", "scene") else 1 for e in chain)])
    with tifffile.TiffWriter(path, bigtiff=odd.bigtiff, byteorder=odd.byteorder, ome=False) as tiff:
        for index, entry in enumerate(chain):
            entry.where = (int(places[index]), 0)
            first = index == 0 and odd.dialect == "ome"
            text = _ome_xml(odd, chain, places.tolist()).encode() if first else _description(odd, entry)
            _write(tiff, odd, entry, text, n_below if entry is groups[0][0] else 0)
            if n_below and entry is groups[0][0]:
                for number, below in enumerate(groups[0][1:]):
                    below.where = (int(places[index]), number + 1)
                    _write(tiff, odd, below, None, 0)
    _make_holes(path, odd, truth)
    return truth


def _pyramid(name: str, picture: Picture, odd: Odd) -> list[Written]:
    full = [(factor, shrink(picture, factor) if factor > 1 else picture) for factor in (1, *odd.factors)]
    return [Written(f, p, np.ones(p.shape[:2], np.bool_), name if f == 1 else "level") for f, p in full]


def _chain(odd: Odd, groups: list[list[Written]]) -> list[Written]:
    """The directories of the chain, in the order of the file."""
    asides = [Written(0, _aside(name, odd), np.ones((1, 1), np.bool_), name) for name in odd.aside]
    slide = groups[0][:1] if odd.below else groups[0]
    if odd.dialect == "aperio":
        return [slide[0], *(a for a in asides if a.name == "thumbnail"), *slide[1:],
                *(a for a in asides if a.name != "thumbnail")]  # fmt: skip
    chain = [*slide, *(group[0] for group in groups[1:]), *asides]
    order = np.random.default_rng(odd.order).permutation(len(chain)).tolist() if odd.order else range(len(chain))
    chain = [chain[index] for index in order]
    if odd.scene == "same":  # of pictures of one size the first is the slide
        places = sorted(index for index, entry in enumerate(chain) if entry.name in ("slide", "scene"))
        chain[places[0]], chain[places[1]] = slide[0], groups[1][0]
    if odd.dialect == "ome":  # the XML lies in the first directory, which is one of those that it describes
        first = next(index for index, entry in enumerate(chain) if entry.name in ("slide", "scene"))
        chain[0], chain[first] = chain[first], chain[0]
    return chain


def _aside(name: str, odd: Odd) -> Picture:
    if name == "thumbnail":
        return shrink(paint(odd.seed, *odd.size), 5)
    return paint(50 if name == "label" else 51, 120, 90)


def _write(tiff: tifffile.TiffWriter, odd: Odd, entry: Written, text: Any, n_below: int) -> None:
    aside = entry.name in ("label", "macro", "thumbnail")
    pixels = entry.pixels
    striped = aside or odd.strips == "all" or (odd.strips == "last level" and entry.factor == max(odd.factors or (2,)))
    entry.striped = striped
    how: dict[str, Any] = {"photometric": "rgb", "compression": None if odd.compression == "none" else odd.compression}
    how |= {"rowsperstrip": 16} if striped else {"tile": odd.tile[::-1]}
    if how["compression"] == "jpeg":
        how["compressionargs"] = {"level": 95}
        if not aside and odd.colors == "rgb":
            how["compressionargs"]["outcolorspace"] = "YCBCR"
    if entry.name == "level" and odd.padded != "no" and not striped:
        sides = [(0, -side % tile) for side, tile in zip(pixels.shape[:2], odd.tile[::-1], strict=True)]
        fill = {"mode": "edge"} if odd.padded == "edge" else {"constant_values": 255}
        pixels = np.pad(pixels, [*sides, (0, 0)], **fill)  # type: ignore[call-overload]
    if odd.colors != "rgb" and not aside:
        pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        how |= {"photometric": "minisblack"} if odd.colors == "grey planes" else {"planarconfig": "separate"}
    if odd.unit in ("cm", "inch", "none") or aside:
        per_unit = {"cm": 1e4, "inch": 25400.0}.get(odd.unit, 1.0)
        scale = odd.mpp * max(1, entry.factor) if per_unit > 1 else 1.0
        names = {"cm": "CENTIMETER", "inch": "INCH"}
        how |= {"resolution": (per_unit / scale,) * 2, "resolutionunit": names.get(odd.unit, "NONE")}
    reduced = (entry.name == "level" and odd.marked) or (entry.name == "thumbnail" and odd.dialect != "aperio")
    if odd.dialect == "aperio":
        reduced = entry.name == "label"
    tiff.write(pixels, description=text, metadata=None, software="" if odd.dialect == "aperio" else None,
               subfiletype=9 if odd.dialect == "aperio" and entry.name == "macro" else int(reduced),
               subifds=n_below, **how)  # fmt: skip


def _description(odd: Odd, entry: Written) -> str | None:
    if odd.dialect == "aperio":
        (width, height), (w, h) = odd.size, odd.tile
        line = {"label": "label 120x90", "macro": "macro 120x90", "thumbnail": f"{width}x{height} -> 9x9 - "}
        size = line.get(entry.name, f"{width}x{height} [0,0 {width}x{height}] ({w}x{h}) Q=90")
        return f"Aperio Image Library v12\r\n{size}|AppMag = {10 / odd.mpp:g}|MPP = {odd.mpp:.4f}"
    return entry.name if entry.name in ("label", "macro", "thumbnail") else None


def _ome_xml(odd: Odd, chain: list[Written], places: list[int]) -> str:
    """Describe the pictures by the directories in which they stand; levels in the chain are left out of it."""
    unit, per_micron = _OME_UNITS[odd.unit]
    units = "".join(f' PhysicalSize{axis}Unit="{unit}"' for axis in "XY") if unit else ""
    scale = f' PhysicalSizeX="{odd.mpp * per_micron:.9g}" PhysicalSizeY="{odd.mpp * per_micron:.9g}"{units}'
    grey = odd.colors == "grey planes"
    channels = "".join(f'<Channel ID="C:{c}" Name="{c}" SamplesPerPixel="1"/>' for c in ("Red", "Green", "Blue"))
    channels = channels if grey else '<Channel ID="C:0" SamplesPerPixel="3"/>'
    images = []
    for entry, place in zip(chain, places, strict=False):
        if entry.name in ("slide", "scene"):
            height, width = entry.pixels.shape[:2]
            planes = [f'<TiffData IFD="{place + c}" FirstC="{c}" PlaneCount="1"/>' for c in range(3 if grey else 1)]
            images.append(_PIXELS.format(n=len(images), name=entry.name, w=width, h=height, scale=scale,
                                         channels=channels, planes="".join(planes)))  # fmt: skip
    return _OME.format("".join(images))


# --- holes


def _pages(tiff: tifffile.TiffFile, odd: Odd, level: Written) -> list[tifffile.TiffPage]:
    """The directories of a level: three where its colours have one each."""
    chain, below = level.where
    found = []
    for plane in range(3 if odd.colors == "grey planes" else 1):
        page = tiff.pages[chain + plane]
        found.append(page if not below else page.pages[below - 1])  # type: ignore[union-attr, index]
    return found  # type: ignore[return-value]


def _make_holes(path: Path, odd: Odd, truth: Truth) -> None:
    for number, seed, how in odd.holes:
        level = truth.levels[number]
        with tifffile.TiffFile(path) as tiff:
            pages = _pages(tiff, odd, level)
            width, height = _chunk(pages[0])
            n_cols = -(-pages[0].imagewidth // width)
            n_rows = -(-pages[0].imagelength // height)
            rng = np.random.default_rng(seed)
            chosen = np.flatnonzero(rng.random(n_cols * n_rows) < (1.0 if number and not seed % 10 else 0.15)).tolist()
            places = [[*_places(page, n_cols * n_rows, chosen, how)] for page in pages]
        with path.open("r+b") as file:
            for at, size in (place for plane in places for place in plane):
                file.seek(at)
                file.write(bytes(size))
        for tile in chosen:
            row, col = divmod(tile, n_cols)
            level.stored[row * height : (row + 1) * height, col * width : (col + 1) * width] = False


def _chunk(page: tifffile.TiffPage) -> tuple[int, int]:
    return (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)


def _places(page: tifffile.TiffPage, n_tiles: int, tiles: list[int], how: str) -> Iterator[tuple[int, int]]:
    """Where the index of a directory names the offset and length of tiles, and in how many bytes; all planes of it."""
    offsets, counts = ("TileOffsets", "TileByteCounts") if page.is_tiled else ("StripOffsets", "StripByteCounts")
    for name in {"both": (offsets, counts), "count": (counts,), "offset": (offsets,)}[how]:
        tag = page.tags[name]
        size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
        for first in range(0, tag.count, n_tiles):
            yield from ((tag.valueoffset + (first + tile) * size, size) for tile in tiles)


def check_written(path: Path, truth: Truth) -> None:
    """Read each level by the specification, tile by tile, and compare what is stored with what should be."""
    limit = 4.0 if truth.odd.compression == "jpeg" else 0.0
    with tifffile.TiffFile(path) as tiff:
        for level in truth.levels:
            for plane, page in enumerate(_pages(tiff, truth.odd, level)):
                decode = page.decode  # looking it up may move the file's position
                for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                    if not offset or not count:
                        continue
                    tiff.filehandle.seek(offset)
                    pixels, (part, _, y, x, _), _ = decode(
                        tiff.filehandle.read(count), index, jpegtables=page.jpegtables
                    )
                    expected, stored = (
                        a[y : y + pixels.shape[1], x : x + pixels.shape[2]] for a in (level.pixels, level.stored)
                    )
                    if not expected.size:
                        continue  # padding
                    assert stored.all()
                    channels = np.s_[:] if pixels.shape[3] == 3 else np.s_[plane + part : plane + part + 1]
                    difference = (
                        pixels[0, : expected.shape[0], : expected.shape[1]].astype(int) - expected[..., channels]
                    )
                    assert np.abs(difference).mean() <= limit
