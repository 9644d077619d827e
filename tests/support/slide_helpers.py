"""Small slides with known content: every JPEG layout, a printed ruler, and ways to damage them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
PERIOD = 256.0
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


def texture(width: int, height: int, seed: int = 0, grain: float = 12) -> Picture:
    """Smooth coloured blobs with fine grain: content that every decoder error shows in."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / (7 + 3 * c) + c) * np.cos(y / (11 - 2 * c)) for c in range(3)]
    noise = rng.normal(0, grain, (height, width, 1))
    return np.clip(np.stack(waves, -1) * 70 + 150 + noise, 0, 255).astype(np.uint8)


def write_jpeg_slide(
    path: Path,
    picture: Picture,
    *,
    rgb: bool = False,
    subsampling: str = "420",
    tables: bool = False,
    jfif: bool = False,
    tile: int = 128,
    levels: tuple[int, ...] = (1,),
    description: str | None = None,
    bigtiff: bool = False,
) -> Path:
    """Write a tiled JPEG TIFF in one of the layouts that scanners write; level n is every n-th pixel."""
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for step in levels:
            plane = picture[::step, ::step]
            shared = _tables(tile, rgb, subsampling) if tables else None
            tiff.write(
                _tiles(plane, tile, rgb, subsampling, bool(tables), jfif),
                shape=plane.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb" if rgb else "ycbcr",
                subsampling=None if rgb else (int(subsampling[0]) // int(subsampling[1]), 1 + (subsampling == "420")),
                compression="jpeg",
                jpegtables=shared,
                subfiletype=0 if step == 1 else 1,
                description=description if step == 1 else None,
                metadata=None,
                software="" if description else None,
                resolution=(20000 / step, 20000 / step),
                resolutionunit="CENTIMETER",
            )
    set_photometric(path, 2 if rgb else 6)  # tifffile says YCbCr of every JPEG
    return path


def set_photometric(path: Path, photometric: int) -> None:
    """Relabel every directory's colours; the pixels stay."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.tags["PhotometricInterpretation"].overwrite(photometric)


def encode(pixels: Picture, rgb: bool, subsampling: str) -> bytes:
    space = "RGB" if rgb else "YCBCR"
    options = {"colorspace": "RGB", "outcolorspace": space, "subsampling": subsampling, "optimize": False}
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=85, **options))


def _tables(tile: int, rgb: bool, subsampling: str) -> bytes:
    return split(encode(np.zeros((tile, tile, 3), np.uint8), rgb, subsampling), rgb, False)[0]


def _tiles(plane: Picture, tile: int, rgb: bool, subsampling: str, bare: bool, jfif: bool) -> Iterator[bytes]:
    height, width = plane.shape[:2]
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            whole = encode(padded[y : y + tile, x : x + tile], rgb, subsampling)
            tables, body = split(whole, rgb, jfif)
            yield (
                body if bare else b"\xff\xd8" + (JFIF if jfif else b"") + tables[2:-2] + split(whole, rgb, False)[1][2:]
            )


def split(jpeg: bytes, rgb: bool, jfif: bool) -> tuple[bytes, bytes]:
    """Take a JPEG apart as scanners do: shared tables, and a stream without them or any marker; ids 0, 1, 2 if RGB."""
    at, tables, body = 2, b"", JFIF if jfif else b""
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segment = bytearray(jpeg[at : at + 2 + length])
        if marker in (0xDB, 0xC4):
            tables += bytes(segment)
        elif marker in (0xC0, 0xDA):
            for component in range(3 if rgb else 0):
                segment[(10 + 3 * component) if marker == 0xC0 else (5 + 2 * component)] = component
            body += bytes(segment)
        if marker == 0xDA:
            return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + body + jpeg[at + 2 + length :]
        at += 2 + length


def damage(path: Path, tile: int, how: str, level: int = 0) -> None:
    """Spoil one native tile in place: its bytes, its place in the index, or leave it out."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
        tags = {name: page.tags[name] for name in ("TileOffsets", "TileByteCounts")}
        places = {name: tag.valueoffset + tile * tag.valuebytecount // tag.count for name, tag in tags.items()}
        sizes = {name: tag.valuebytecount // tag.count for name, tag in tags.items()}
    with path.open("r+b") as file:
        if how in ("zeros", "half"):
            start = offset if how == "zeros" else offset + count // 2
            file.seek(start)
            file.write(bytes(offset + count - start))
        else:
            nothing = {"TileByteCounts": 0}
            values = {"blank": nothing | {"TileOffsets": 0}, "denied": nothing, "beyond": {"TileOffsets": 2**31}}[how]
            for name, value in values.items():
                file.seek(places[name])
                file.write(value.to_bytes(sizes[name], "little"))


def ruler_level(width: int, height: int, downsample_x: float, downsample_y: float, full: tuple[int, int]) -> Picture:
    """Print a level on which every pixel says where it lies: red waves along x, green along y, blue rises along x + y.

    Each value is the exact mean over the level-0 extent of the pixel.
    """
    x, y = (np.arange(n + 1) * d for n, d in ((width, downsample_x), (height, downsample_y)))
    omega = 2 * np.pi / PERIOD

    def wave(edges: NDArray[np.float64]) -> NDArray[np.float64]:
        return 128 + 100 * np.diff(-np.cos(omega * edges)) / (omega * np.diff(edges))

    middle_x, middle_y = ((edges[1:] + edges[:-1]) / 2 for edges in (x, y))
    blue = (middle_x[None, :] + middle_y[:, None]) / sum(full) * 255
    red, green = np.broadcast_to(wave(x), blue.shape), np.broadcast_to(wave(y)[:, None], blue.shape)
    return np.rint(np.stack([red, green, blue], -1)).astype(np.uint8)


def read_ruler(tile: Picture, downsample: tuple[float, float], full: tuple[int, int], expected: tuple[float, float]):  # type: ignore[no-untyped-def]
    """How far a tile's pixels lie from where they should, in level-0 pixels: (along x, along y, along x + y)."""
    height, width = tile.shape[:2]
    off = []
    for axis, count in ((0, width), (1, height)):
        profile = tile[..., axis].astype(float).mean(axis=axis)
        place = expected[axis] + (np.arange(count) + 0.5) * downsample[axis]
        angle = 2 * np.pi / PERIOD * place
        basis = np.stack([np.ones(count), np.sin(angle), np.cos(angle)], axis=1)
        _, sine, cosine = np.linalg.lstsq(basis, profile, rcond=None)[0]
        off.append(np.arctan2(cosine, sine) * PERIOD / (2 * np.pi))
    middle = sum(expected) + width / 2 * downsample[0] + height / 2 * downsample[1]
    off.append(tile[..., 2].mean() / 255 * sum(full) - middle)
    return off
