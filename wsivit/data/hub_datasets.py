"""Image classification sets of the hub, or a local folder in the hub's format, as a source."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from os import cpu_count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ImageOps

from wsivit.data.image_folders import SPLIT_FOLDERS, to_square
from wsivit.data.labelled_tiles import LabelledTiles
from wsivit.data.splits import TEST, VALIDATION
from wsivit.errors import UnreadableTilesError, UsageError
from wsivit.io import PICTURE_ERRORS, open_picture

ALIASES = {"food101": "ethz/food101"}
OFFICIAL_TEST = {"ethz/food101": "validation"}
"""Where the hub calls the official test part by another name."""


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
        wanted = np.asarray(indices).tolist()

        def read(i: int) -> NDArray[np.uint8]:
            try:
                stored = self.dataset[i][self.image]
                with open_picture(stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"])) as picture:
                    return to_square(ImageOps.exif_transpose(picture), self.size)
            except PICTURE_ERRORS as error:
                raise UnreadableTilesError(f"{self.id}: picture {i} cannot be read: {error}") from error

        if threads == 1 or len(wanted) < 2:
            return np.array([read(i) for i in wanted], np.uint8).reshape(-1, self.size, self.size, 3)
        with ThreadPoolExecutor(threads or cpu_count()) as pool:
            return np.array(list(pool.map(read, wanted)), np.uint8)

    def items(self, indices: NDArray[np.int64]) -> list[str]:
        """Name pictures by their place."""
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
        The set cannot be had, or holds no pictures with classes.
    """
    name = ALIASES.get(name, name)
    parts = _load(name)
    found = []
    for part, dataset in parts.items():
        image, column = _columns(name, dataset.features, label)
        side = _side(name, part, only=len(parts) == 1)
        codes = np.asarray(dataset[column], np.int64)
        index = np.flatnonzero(codes >= 0).astype(np.int64)  # the hub marks a hidden label by -1
        source = HubSource(name, part, dataset.select_columns([image]), image, size)
        sides = None if side is None else np.full(len(index), side, np.int8)
        if len(index):
            found.append(LabelledTiles(source, index, codes[index], tuple(dataset.features[column].names), sides))
    return found


def _load(name: str) -> Any:
    from datasets import load_dataset, logging

    logging.set_verbosity_error()
    try:
        return load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"data set {name}: cannot be had ({first}). Run once with a network, the hub's cache (HF_HOME) then serves "
            "offline; or give a local copy: food-101 in torchvision's layout, an image folder, or hf:FOLDER"
        ) from error


def _columns(name: str, features: Any, label: str | None) -> tuple[str, str]:
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


def _side(name: str, part: str, *, only: bool) -> int | None:
    if only:
        return None
    if OFFICIAL_TEST.get(name) == part:
        return TEST
    return SPLIT_FOLDERS.get(part.lower(), VALIDATION if "val" in part.lower() else TEST)
