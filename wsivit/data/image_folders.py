"""Folders of pictures as a source: any image folder, food-101 in torchvision's layout. No torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from wsivit.data.labelled_tiles import LabelledTiles
from wsivit.data.splits import TEST, TRAIN, VALIDATION
from wsivit.errors import LimitError, UnreadableTilesError, UsageError
from wsivit.io import PICTURE_ERRORS, open_picture

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"}
SPLIT_FOLDERS = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
MAX_BAD = 0.01
"""Share of pictures that may be damaged; they are left out. Beyond it the folder is refused."""


class ImageSource:
    """Picture files, each brought to a square: the shorter side resized, the middle taken.

    Parameters
    ----------
    root : path
        The folder that names are relative to.
    names : sequence of str
        The pictures.
    size : int
        Side that they are brought to, in pixels.
    """

    patient = site = scanner = ""
    mpp: float | None = None
    downscale = ""

    def __init__(self, root: str | os.PathLike[str], names: Sequence[str], size: int) -> None:
        self.root, self.names, self.size = Path(root), list(names), size
        self.id = self.root.resolve().name
        listing = "\n".join(f"{name}\t{(self.root / name).stat().st_size}" for name in self.names)
        self.fingerprint = "sha256:" + hashlib.sha256(listing.encode()).hexdigest()

    def read(self, indices: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read pictures, uint8 (k, size, size, 3)."""
        return read_squares([self.root / self.names[i] for i in np.asarray(indices)], self.size, threads)

    def items(self, indices: NDArray[np.int64]) -> list[str]:
        """Name pictures by their path in the folder."""
        return [self.names[i] for i in indices]


def read_squares(paths: Sequence[Path], size: int, threads: int | None) -> NDArray[np.uint8]:
    """Read picture files as squares, uint8 (k, size, size, 3)."""

    def read(path: Path) -> NDArray[np.uint8]:
        try:
            with open_picture(path) as image:
                return to_square(image, size)
        except PICTURE_ERRORS as error:
            raise UnreadableTilesError(f"{path}: cannot be read: {error}; remove it, or repair it") from error

    if threads == 1 or len(paths) < 2:
        return np.array([read(path) for path in paths], np.uint8).reshape(-1, size, size, 3)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return np.array(list(pool.map(read, paths)), np.uint8)


def to_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize the shorter side (bilinear, antialiased) and take the middle; uint8 (size, size, 3)."""
    image.draft("RGB", (size, size))  # a large JPEG is halved while it is decoded
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR), np.uint8)


def is_food101(folder: Path) -> bool:
    """Whether a folder is food-101 in torchvision's layout."""
    return (folder / "images").is_dir() and any(
        (folder / "meta" / f"train{end}").is_file() for end in (".json", ".txt")
    )


def is_image_folder(folder: Path) -> bool:
    """Whether a folder holds pictures in one folder per class, with or without train and test above."""
    return any(True for _ in _class_folders(folder))


def labelled_food101(folder: Path, size: int) -> LabelledTiles:
    """Read food-101 with its own official split, from ``meta/{train,test}.{json,txt}``."""
    found = [
        (f"images/{entry}.jpg", entry.partition("/")[0], side)
        for name, side in (("train", TRAIN), ("test", TEST))
        for entry in _food_list(folder / "meta", name)
    ]
    return _labelled(folder, found, size)


def labelled_folder(folder: Path, size: int) -> LabelledTiles:
    """Read an image folder: ``train/<class>/…`` with ``val|validation|test/<class>/…``, or ``<class>/…``."""
    found = [
        (str(path.relative_to(folder)), classes.name, side)
        for classes, side in _class_folders(folder)
        for path in sorted(classes.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    return _labelled(folder, found, size)


def _class_folders(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """Yield each class's folder and the side of the split it is on."""
    children = _folders(folder)
    sides = {child: SPLIT_FOLDERS[child.name.lower()] for child in children if child.name.lower() in SPLIT_FOLDERS}
    if TRAIN in sides.values():
        for child, side in sides.items():
            yield from ((classes, side) for classes in _folders(child))
    else:
        yield from (
            (child, None) for child in children if any(path.suffix.lower() in SUFFIXES for path in child.iterdir())
        )


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _food_list(meta: Path, name: str) -> list[str]:
    """Read ``class/number`` entries of one side."""
    try:
        if (meta / f"{name}.json").is_file():
            listed: dict[str, list[str]] = json.loads((meta / f"{name}.json").read_text())
            return [entry for entries in listed.values() for entry in entries]
        return (meta / f"{name}.txt").read_text().split()
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{meta}: food-101 needs {name}.json or {name}.txt: {error}") from error


def _labelled(folder: Path, found: Sequence[tuple[str, str, int | None]], size: int) -> LabelledTiles:
    good = _without_damaged(folder, found)
    classes = tuple(sorted({name for _, name, _ in good}))
    place = {name: code for code, name in enumerate(classes)}
    sides = [side for _, _, side in good if side is not None]
    source = ImageSource(folder, [path for path, _, _ in good], size)
    return LabelledTiles(
        source,
        np.arange(len(good), dtype=np.int64),
        np.array([place[name] for _, name, _ in good], np.int64),
        classes,
        np.array(sides, np.int8) if sides else None,
    )


def _without_damaged(folder: Path, found: Sequence[tuple[str, str, int | None]]) -> list[tuple[str, str, int | None]]:
    """Leave out files that are no whole pictures, by name; refuse a folder with too many."""
    if not found:
        raise UsageError(f"{folder}: holds no pictures in folders of classes")
    with ThreadPoolExecutor(16) as pool:
        troubles = list(pool.map(lambda entry: image_defect(folder / entry[0]), found))
    bad = [f"{path} ({why})" for (path, _, _), why in zip(found, troubles, strict=True) if why]
    if len(bad) > max(1, MAX_BAD * len(found)):
        raise LimitError(
            f"{folder}: {len(bad)} of {len(found)} pictures are damaged, more than {MAX_BAD:.0%}: "
            f"{'; '.join(bad[:5])}; repair or remove them"
        )
    if bad:
        logging.getLogger(__name__).warning("%s: left out %d damaged: %s", folder, len(bad), "; ".join(bad))
    return [entry for entry, why in zip(found, troubles, strict=True) if not why]


def image_defect(path: Path) -> str:
    """Say what is wrong with a picture file, from its ends alone; empty when nothing is."""
    ends = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PN": b"IEND"}
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(3)
            file.seek(max(0, size - 64))
            tail = file.read()
        with open_picture(path) as image:
            if min(image.size) < 1:
                return "empty"
    except FileNotFoundError:
        return "missing"
    except PICTURE_ERRORS:
        return "no picture"
    return "cut short" if ends.get(head, b"") not in tail else ""
