"""Small TIFFs as Philips, Leica and Ventana scanners write them, with known pixels, which OpenSlide reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
TILE = 128


def write_philips(path: Path, levels: Sequence[Picture], mpp: float) -> Path:
    """Levels padded to complete tiles; what is not padding follows from the scale that the XML states of each."""
    spacing = '<Attribute Name="DICOM_PIXEL_SPACING">"{0}" "{0}"</Attribute>'
    entry = '<DataObject ObjectType="PixelDataRepresentation">{}</DataObject>'
    entries = "".join(entry.format(spacing.format(mpp / 1000 * 2**n)) for n in range(len(levels)))
    text = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
        f'<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>{spacing.format(mpp / 1000)}'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{entries}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )
    padded = []
    for level in levels:
        sides = [(0, -side % TILE) for side in level.shape[:2]]
        padded.append(np.pad(level, [*sides, (0, 0)], mode="edge"))
    return _write(path, padded, text, "Philips DP v1.0", mpp)


def write_leica(path: Path, levels: Sequence[Picture], mpp: float, offset: tuple[int, int] = (2000, 1000)) -> Path:
    """One area, `offset` level-0 pixels from the corner of a collection that is larger than it."""
    nm = [round(side * mpp * 1000) for side in levels[0].shape[1::-1]]
    x, y = (round(side * mpp * 1000) for side in offset)
    pages = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{n}" ifd="{n}" />'
        for n, level in enumerate(levels)
    )
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:0">'
        f'<collection name="c" uuid="urn:uuid:1" sizeX="{nm[0] + 2 * x}" sizeY="{nm[1] + 2 * y}"><barcode>0</barcode>'
        '<image name="i" uuid="urn:uuid:2"><creationDate>2020-01-01T00:00:00</creationDate>'
        '<device model="Leica SCN400" version="1" />'
        f'<pixels sizeX="{levels[0].shape[1]}" sizeY="{levels[0].shape[0]}">{pages}</pixels>'
        f'<view sizeX="{nm[0]}" sizeY="{nm[1]}" offsetX="{x}" offsetY="{y}" spacingZ="0" />'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    return _write(path, levels, text, "Leica", mpp)


def write_ventana(path: Path, levels: Sequence[Picture], mpp: float) -> Path:
    """One area of tiles that overlap by nothing; how they join is written of each pair, bottom row first."""
    cols, rows = (-(-side // TILE) for side in levels[0].shape[1::-1])

    def number(col: int, row: int) -> int:
        up = rows - 1 - row
        return up * cols + (cols - 1 - col if up % 2 else col) + 1

    joint = (
        '<TileJointInfo FlagJoined="1" Confidence="100" Direction="{}" Tile1="{}" Tile2="{}" OverlapX="0" '
        'OverlapY="0" />'
    )
    joints = [joint.format("RIGHT", number(c - 1, r), number(c, r)) for r in range(rows) for c in range(1, cols)]
    joints += [joint.format("UP", number(c, r), number(c, r - 1)) for r in range(1, rows) for c in range(cols)]
    xmp = (
        f'<EncodeInfo Ver="2">'
        f'<SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{rows}" NumCols="{cols}" Width="{TILE}" '
        f'Height="{TILE}" Pos-X="0" Pos-Y="0">{"".join(joints)}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0" /></AoiOrigin></EncodeInfo>'
    ).encode()
    texts = [f"level={n} mag={20 / 2**n:g} quality=90" for n in range(len(levels))]
    scan = f'<iScan Magnification="20" ScanRes="{mpp}" Z-layers="1" UnitNumber="1" />'.encode()
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        label = np.full((64, 64, 3), 90, np.uint8)
        tags = [(700, 1, len(scan), scan, True)]
        tiff.write(label, photometric="rgb", description="Label Image", software="", metadata=None, extratags=tags)
    return _write(path, levels, texts, "", mpp, [(700, 1, len(xmp), xmp, True)], append=True)


def _write(
    path: Path,
    levels: Sequence[Picture],
    texts: str | list[str],
    software: str,
    mpp: float,
    tags: Any = (),
    append: bool = False,
) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True, append=append) as tiff:
        for number, level in enumerate(levels):
            text = texts[number] if isinstance(texts, list) else texts if number == 0 else None
            tiff.write(
                level,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95, "outcolorspace": "YCBCR"},
                subfiletype=int(number > 0),
                description=text,
                software=software,
                metadata=None,
                resolution=(1e4 / mpp / 2**number,) * 2,
                resolutionunit="CENTIMETER",
                extratags=tags if number == 0 else (),
            )
    return path
