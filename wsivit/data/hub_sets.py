"""Sets of pictures of the Hugging Face hub as sources. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from wsivit.data.image_sources import EXAMINED, read_squares, require_full_range, to_square
from wsivit.data.labelled_tiles import LabelledTiles
from wsivit.data.splits import SIDE_NAMES, TEST, TUNE
from wsivit.errors import UnreadableTilesError, UsageError
from wsivit.io import PICTURE_ERRORS, open_picture

ALIASES = {"food101": "ethz/food101"}
_OFFICIAL_TEST = {"ethz/food101": "validation"}
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

        def read(i: int) -> NDArray[np.uint8]:
            try:
                with self.open(i) as picture:
                    return to_square(picture, self.size)
            except PICTURE_ERRORS as error:
                raise UnreadableTilesError(f"{self.id}: picture {i} cannot be read: {error}") from error

        return read_squares(read, indices, self.size, threads)

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
        require_full_range(source.id, _openable(source, index[:: -(-len(index) // EXAMINED)]))
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
    return SIDE_NAMES.get(part.lower(), TUNE if "val" in part.lower() else TEST)
