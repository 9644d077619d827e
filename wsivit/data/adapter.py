"""Whatever data there are, as samples: stores, a cohort table, an image folder, food-101, a set of the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wsivit.data.cohort import labelled_cohort
from wsivit.data.images import is_food101, is_image_folder, labelled_folder, labelled_food101
from wsivit.data.samples import Labelled, Samples, StoreSource, combine, label_from_store
from wsivit.errors import UsageError
from wsivit.store import TileStore

PICTURE_SIDE = 256
"""Side that pictures of folders are brought to before the model's input is cut from them, in pixels."""


def load_samples(
    data: Sequence[str | os.PathLike[str]],
    label: str | None = None,
    *,
    side: int = PICTURE_SIDE,
    min_classes: int = 2,
) -> Samples:
    """Collect labelled pictures, whatever they are kept in.

    Parameters
    ----------
    data : sequence of path or str
        Tile stores, folders of them, cohort tables (``.csv``); or an image folder, food-101 in torchvision's layout,
        ``food101`` or ``hf:<id>`` from the hub.
    label : str, optional
        Label column of the stores or the table. Pictures in folders need none.
    side : int
        Side that pictures of folders are brought to, in pixels.
    min_classes : int
        How many classes must occur: two to learn, one to measure.

    Raises
    ------
    UsageError
        Something is none of these, has no such label, or there are too few classes.
    StoreMismatchError
        The data differ in scale or tile size.
    """
    if not data:
        raise UsageError("no data were given")
    parts = [part for item in data for part in _labelled(os.fspath(item), label, side)]
    return combine(parts, label or "class", min_classes=min_classes)


def _labelled(item: str, label: str | None, side: int) -> list[Labelled]:
    if item == "food101" or item.startswith("hf:"):
        from wsivit.data.hub import labelled_hub

        return labelled_hub(item.removeprefix("hf:"), label, side)
    path = Path(item)
    if TileStore.is_store(item):
        return [label_from_store(StoreSource(item), _needed(label, item))]
    if path.suffix.lower() == ".csv":
        return labelled_cohort(path, _needed(label, item))
    if path.is_dir():
        return _labelled_folder(path, label, side)
    if path.is_file():
        raise UsageError(
            f"{item}: is no tile store; make one of a slide with wsivit tile (--codec none copies no pixels)"
        )
    raise UsageError(f"{item}: there is no such store, table, folder or data set (of the hub: hf:owner/name)")


def _labelled_folder(folder: Path, label: str | None, side: int) -> list[Labelled]:
    stores = sorted(path for path in folder.glob("*.zarr") if TileStore.is_store(path))
    if stores:
        return [label_from_store(StoreSource(path), _needed(label, str(folder))) for path in stores]
    for food in (folder, folder / "food-101"):
        if is_food101(food):
            return [labelled_food101(food, side)]
    if is_image_folder(folder):
        return [labelled_folder(folder, side)]
    raise UsageError(f"{folder}: holds neither tile stores nor pictures in folders of classes")


def _needed(label: str | None, item: str) -> str:
    if label is None:
        known = TileStore(item).labels if TileStore.is_store(item) else []
        raise UsageError(f"{item}: which label? (--label){'; it has ' + ', '.join(known) if known else ''}")
    return label
