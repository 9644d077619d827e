"""Pictures with a class as sources: image folders, food-101 in torchvision's layout, sets of the hub. No torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from wsivit.data.labelled_tiles import LabelledTiles
from wsivit.data.splits import TEST, TRAIN, VALIDATION
from wsivit.errors import LimitError, UnreadableTilesError, UsageError
from wsivit.io import PICTURE_ERRORS, open_picture

_log = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"}
SPLIT_FOLDERS = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
MAX_DAMAGED = 0.01
"""Share of pictures that may be damaged; they are left out. A folder with more is rejected."""
_NOT_PICTURES = {"__MACOSX", "@eaDir"}
"""Folders in which macOS and Synology keep files of their own, named like the pictures that they are about."""
_EXAMINED = 64
"""Pictures that are decoded to see which range 16 bits use."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PN"
_ENDS = {_JPEG: b"\xff\xd9", _PNG: b"IEND\xaeB`\x82"}

ALIASES = {"food101": "ethz/food101"}
_OFFICIAL_TEST = {"ethz/food101": "validation"}
"""Where the hub calls the official test part by another name."""

# Pictures --------------------------------------------------------------------------------------------


def to_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Turn a picture upright, resize its shorter side (bilinear, antialiased) and crop the centre.

    Parameters
    ----------
    image : PIL.Image.Image
        16 bits per channel are scaled by the range of the type.
    size : int

    Returns
    -------
    ndarray of uint8 (size, size, 3)

    Raises
    ------
    ValueError
        The values have no known range (32-bit integers, floating point).
    """
    image.draft("RGB", (size, size))  # a large JPEG is halved while it is decoded
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        # Pillow itself clips at 255 here, which makes tissue white; of 16-bit colour it takes the high byte, too.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its values (Pillow's mode {image.mode}) have no known range: convert it to 8 or 16 bits")
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR), np.uint8)


def _read_squares(
    read: Callable[[int], NDArray[np.uint8]], indices: ArrayLike, size: int, threads: int | None
) -> NDArray[np.uint8]:
    wanted = np.asarray(indices).tolist()
    if threads == 1 or len(wanted) < 2:
        return np.array([read(i) for i in wanted], np.uint8).reshape(-1, size, size, 3)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return np.array(list(pool.map(read, wanted)), np.uint8)


def _require_full_range(name: str, pictures: Iterable[Image.Image]) -> None:
    """Reject 16-bit pictures none of which uses more than 12 bits: which of their values is white is not known."""
    peaks = []
    for picture in pictures:
        with picture:
            tile = getattr(picture, "tile", [])
            raw = tile[0].args if tile else ""
            if "16" not in (raw if isinstance(raw, str) else str(raw[0])):  # Pillow's raw mode: I;16B, RGB;16L
                continue
            try:
                peak = int(np.max(np.ravel(picture.getextrema())))
            except PICTURE_ERRORS:
                continue  # whoever reads it reports it
            # Colour is 8 bits by now, the high byte of each value.
            peaks.append(peak >> 8 if picture.mode.startswith("I") else peak)
    if peaks and max(peaks) < 16:
        raise UsageError(
            f"{name}: 16-bit pictures that use at most 12 bits (none of the {len(peaks)} examined has a value of 4,096 "
            "or more): their white point is not known; scale them to 8 bits, or to all 16"
        )


# Image folders ---------------------------------------------------------------------------------------


class ImageSource:
    """Picture files, each brought to a square: the shorter side resized, the centre cropped.

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

        def read(i: int) -> NDArray[np.uint8]:
            path = self.root / self.names[i]
            try:
                with open_picture(path) as image:
                    return to_square(image, self.size)
            except PICTURE_ERRORS as error:
                raise UnreadableTilesError(f"{path}: cannot be read: {error}; remove it, or repair it") from error

        return _read_squares(read, indices, self.size, threads)

    def items(self, indices: NDArray[np.int64]) -> list[str]:
        """Name pictures by their path in the folder."""
        return [self.names[i] for i in indices]


def picture_source(paths: Sequence[str | os.PathLike[str]], size: int) -> ImageSource:
    """Collect picture files, and those below folders, without their classes; UsageError where there is none."""
    pictures: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            pictures += sorted(file for file in path.rglob("*") if _is_picture(file.relative_to(path)))
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            pictures.append(path)
        else:
            raise UsageError(f"{path}: there is no such picture or folder; pictures are {', '.join(sorted(SUFFIXES))}")
    if not pictures:
        raise UsageError(f"{', '.join(map(str, paths))}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    root = Path(os.path.commonpath([picture.parent.absolute() for picture in pictures]))
    return ImageSource(root, [str(picture.absolute().relative_to(root)) for picture in pictures], size)


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
    pictures: list[tuple[str, str, int | None]] = []
    for name, side in (("train", TRAIN), ("test", TEST)):
        listing = folder / "meta" / name
        try:
            if listing.with_suffix(".json").is_file():
                listed: dict[str, list[str]] = json.loads(listing.with_suffix(".json").read_text())
                entries = [entry for of_class in listed.values() for entry in of_class]
            else:
                entries = listing.with_suffix(".txt").read_text().split()
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{listing.parent}: food-101 needs {name}.json or {name}.txt: {error}") from error
        pictures += [(f"images/{entry}.jpg", entry.partition("/")[0], side) for entry in entries]
    return _labelled_pictures(folder, pictures, size)


def labelled_folder(folder: Path, size: int) -> LabelledTiles:
    """Read an image folder: ``train/<class>/…`` with ``val|validation|test/<class>/…``, or ``<class>/…``."""
    pictures = [
        (str(path.relative_to(folder)), classes.name, side)
        for classes, side in _class_folders(folder)
        for path in sorted(classes.rglob("*"))
        if _is_picture(path.relative_to(folder))
    ]
    return _labelled_pictures(folder, pictures, size)


def _class_folders(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """Yield each class's folder and the side of the split it is on."""
    children = _subfolders(folder)
    sides = {child: SPLIT_FOLDERS[child.name.lower()] for child in children if child.name.lower() in SPLIT_FOLDERS}
    if TRAIN in sides.values():
        for child, side in sides.items():
            yield from ((classes, side) for classes in _subfolders(child))
    else:
        for child in children:
            if any(_is_picture(path.relative_to(folder)) for path in child.iterdir()):
                yield child, None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not _is_foreign(child.name))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(map(_is_foreign, path.parts))


def _is_foreign(name: str) -> bool:
    """Whether an operating system or tool keeps something of its own under a name: ``._x.jpg`` is macOS's of x.jpg."""
    return name.startswith(".") or name in _NOT_PICTURES


def _labelled_pictures(folder: Path, pictures: Sequence[tuple[str, str, int | None]], size: int) -> LabelledTiles:
    """Make a source of pictures (path, class, side), without those that are damaged; LimitError where many are."""
    if not pictures:
        raise UsageError(f"{folder}: holds no pictures in folders of classes")
    with ThreadPoolExecutor(16) as pool:
        defects = list(pool.map(lambda entry: image_defect(folder / entry[0]), pictures))
    damaged = [f"{path} ({why})" for (path, _, _), why in zip(pictures, defects, strict=True) if why]
    if len(damaged) > max(1, MAX_DAMAGED * len(pictures)):
        raise LimitError(
            f"{folder}: {len(damaged)} of {len(pictures)} pictures are damaged, more than {MAX_DAMAGED:.0%}: "
            f"{'; '.join(damaged[:5])}; repair or remove them"
        )
    if damaged:
        _log.warning("%s: left out %d damaged: %s", folder, len(damaged), "; ".join(damaged))
    sound = [entry for entry, why in zip(pictures, defects, strict=True) if not why]
    some = sound[:: -(-len(sound) // _EXAMINED) or 1]
    _require_full_range(str(folder), (open_picture(folder / path) for path, _, _ in some))
    classes = tuple(sorted({name for _, name, _ in sound}))
    code = {name: number for number, name in enumerate(classes)}
    sides = [side for _, _, side in sound if side is not None]
    return LabelledTiles(
        ImageSource(folder, [path for path, _, _ in sound], size),
        np.arange(len(sound), dtype=np.int64),
        np.array([code[name] for _, name, _ in sound], np.int64),
        classes,
        np.array(sides, np.int8) if sides else None,
    )


def image_defect(path: Path) -> str:
    """Say what is wrong with a picture file without decoding it; empty when nothing is."""
    try:
        with open_picture(path) as image:
            if min(image.size) < 1:
                return "empty"
            if image.mode in ("I", "F"):
                return f"values without a known range, mode {image.mode}: convert it to 8 or 16 bits"
        with path.open("rb") as file:
            head = file.read(3)
            end = _ENDS.get(head)
            if end is None:
                return ""
            file.seek(max(0, path.stat().st_size - 64))
            if end in file.read():
                return ""
            # Cameras and copying tools append bytes (a film, zeros): then the end lies further in.
            file.seek(0)
            data = file.read()
    except FileNotFoundError:
        return "missing"
    except PICTURE_ERRORS:
        return "no picture"
    start = _start_of_scan(data) if head == _JPEG else 0
    return "" if end in data[start:] else "cut short"


def _start_of_scan(jpeg: bytes) -> int:
    """Offset behind a JPEG's header, whose segments may hold a thumbnail with an end of its own."""
    offset = 2
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF and jpeg[offset + 1] != 0xDA:
        offset += 2 + int.from_bytes(jpeg[offset + 2 : offset + 4], "big")
    return offset


# Sets of the hub -------------------------------------------------------------------------------------


class HubSource:
    """One part of a set of the hub.

    Parameters
    ----------
    name : str
        ``owner/set``, or a folder.
    part : str
        ``train``, ``test``, …
    dataset : datasets.Dataset
    image : str
        Column with the pictures.
    size : int
        Side that they are brought to, in pixels.
    """

    patient = site = scanner = ""
    mpp: float | None = None
    downscale = ""

    def __init__(self, name: str, part: str, dataset: Any, image: str, size: int) -> None:
        from datasets import Image as StoredImage

        self.id = f"{name.rstrip('/').rpartition('/')[2]}/{part}"
        facts = json.dumps([name if "/" in name else self.id, part, len(dataset), str(dataset.features)])
        self.fingerprint = "sha256:" + hashlib.sha256(facts.encode()).hexdigest()
        # As they are stored: datasets would open them in any format that Pillow knows.
        self.dataset, self.image, self.size = dataset.cast_column(image, StoredImage(decode=False)), image, size

    def read(self, indices: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read pictures, uint8 (k, size, size, 3)."""

        def read(i: int) -> NDArray[np.uint8]:
            try:
                with self.open(i) as picture:
                    return to_square(picture, self.size)
            except PICTURE_ERRORS as error:
                raise UnreadableTilesError(f"{self.id}: picture {i} cannot be read: {error}") from error

        return _read_squares(read, indices, self.size, threads)

    def open(self, index: int) -> Image.Image:
        """Open a picture; one of `wsivit.io.PICTURE_ERRORS` where it is damaged."""
        stored = self.dataset[index][self.image]
        return open_picture(stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"]))

    def items(self, indices: NDArray[np.int64]) -> list[str]:
        """Name pictures by their number."""
        return [str(i) for i in indices]


def labelled_hub(name: str, label: str | None, size: int) -> list[LabelledTiles]:
    """Read every part of a set of the hub, with the split it came with.

    Parameters
    ----------
    name : str
        ``food101``, ``owner/set``, or a folder in the hub's format (parquet, or an image folder).
    label : str, optional
        The class column. Default: the only one there is.
    size : int

    Raises
    ------
    UsageError
        The set cannot be loaded, holds no pictures with classes, or 16-bit pictures whose range is not known.
    """
    from datasets import load_dataset, logging

    name = ALIASES.get(name, name)
    logging.set_verbosity_error()
    try:
        parts: Any = load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"data set {name}: cannot be loaded ({first}). Run once with a network, the hub's cache (HF_HOME) then "
            "serves offline; or give a local copy: food-101 in torchvision's layout, an image folder, or hf:FOLDER"
        ) from error
    labelled = []
    for part, dataset in parts.items():
        image, column = _columns(name, dataset.features, label)
        side = None if len(parts) == 1 else _hub_side(name, part)
        codes = np.asarray(dataset[column], np.int64)
        index = np.flatnonzero(codes >= 0).astype(np.int64)  # the hub marks a hidden label by -1
        if not len(index):
            continue
        source = HubSource(name, part, dataset.select_columns([image]), image, size)
        _require_full_range(source.id, _openable(source, index[:: -(-len(index) // _EXAMINED)]))
        sides = None if side is None else np.full(len(index), side, np.int8)
        labelled.append(LabelledTiles(source, index, codes[index], tuple(dataset.features[column].names), sides))
    return labelled


def _openable(source: HubSource, indices: NDArray[np.int64]) -> Iterator[Image.Image]:
    for i in indices.tolist():
        try:
            yield source.open(i)
        except PICTURE_ERRORS:
            continue  # reading it reports it


def _columns(name: str, features: Any, label: str | None) -> tuple[str, str]:
    """Return the columns of the pictures and of the classes."""
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    classes = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    wanted = [label] if label in classes else classes
    if not images or len(wanted) != 1:
        raise UsageError(
            f"data set {name}: needs a column of pictures and one of classes; it has "
            + ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
            + ("; choose one with --label" if len(classes) > 1 else "")
        )
    return images[0], str(wanted[0])


def _hub_side(name: str, part: str) -> int:
    if _OFFICIAL_TEST.get(name) == part:
        return TEST
    return SPLIT_FOLDERS.get(part.lower(), VALIDATION if "val" in part.lower() else TEST)
