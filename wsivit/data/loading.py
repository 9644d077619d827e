"""Whatever data there are, as samples: stores, slides, a cohort table, an image folder, food-101, a set of the hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsivit.data.image_sources import is_food101, is_image_folder, labelled_folder, labelled_food101
from wsivit.data.index import is_index, labelled_index
from wsivit.data.labelled_tiles import LabelledTiles, Samples, StoreSource, combine, label_from_store, same_scale
from wsivit.data.slide_table import TILE_FIRST, labelled_cohort
from wsivit.data.slide_tiles import SlideOptions, SlideTiler
from wsivit.errors import UsageError
from wsivit.io import is_url
from wsivit.slide_list import slides_below
from wsivit.store import TileStore
from wsivit.tiling import LABEL

_log = logging.getLogger(__name__)

PICTURE_SIDE = 256
"""Side that pictures of folders are brought to before the model's input is cut from them, in pixels."""


def load_samples(
    data: Sequence[str | os.PathLike[str]],
    label: str | None = None,
    *,
    side: int = PICTURE_SIDE,
    min_classes: int = 2,
    tiler: SlideTiler | None = None,
) -> Samples:
    """Collect labelled pictures, whatever they are kept in.

    Parameters
    ----------
    data : sequence of path or str
        Tile stores, slides, folders of them, cohort tables (``.csv``), an index of stores (``.parquet``); or an image
        folder, food-101 in torchvision's layout, ``food101`` or ``hf:<id>`` from the hub.
    label : str, optional
        Label column of the stores or the table. Pictures in folders need none; slides have ``region``, of the
        annotations beside them; tables ``label``.
    side : int
        Side that pictures of folders are brought to, in pixels.
    min_classes : int
        How many classes must occur: two to learn, one to measure.
    tiler : SlideTiler, optional
        Makes stores of slides, and says which stores to take; without it slides are refused.

    Raises
    ------
    UsageError
        Something is none of these, has no such label, or there are too few classes.
    StoreMismatchError
        The data differ in scale or tile size.
    """
    if not data:
        raise UsageError("no data were given")
    adapter = _Adapter(label, side, tiler)
    parts = [part for item in data for part in adapter.labelled(os.fspath(item))]
    taken = _wanted(parts, tiler.options if tiler else SlideOptions())
    return combine(taken, label or taken[0].label, min_classes=min_classes)


@dataclass(frozen=True)
class _Adapter:
    """Brings one thing after the other into the one form."""

    label: str | None
    side: int
    tiler: SlideTiler | None

    def labelled(self, item: str) -> list[LabelledTiles]:
        if item == "food101" or item.startswith("hf:"):
            from wsivit.data.image_sources import labelled_hub

            return labelled_hub(item.removeprefix("hf:"), self.label, self.side)
        if is_index(item):
            return labelled_index(item, self.label)
        if TileStore.is_store(item):
            return [self._store(item)]
        path = Path(item)
        if path.suffix.lower() == ".csv":
            return labelled_cohort(path, self.label, self.tiler)
        if path.is_dir():
            return self._folder(path)
        if path.is_file() or is_url(item):
            return [self._slide(item)]
        raise UsageError(
            f"{item}: there is no such store, slide, table, folder or data set (of the hub: hf:owner/name)"
        )

    def _folder(self, folder: Path) -> list[LabelledTiles]:
        found = [folder / below for below in slides_below(str(folder))]
        stores = [path for path in found if TileStore.is_store(path)]
        if stores:
            return [self._store(path) for path in stores]
        for food in (folder, folder / "food-101"):
            if is_food101(food):
                return [labelled_food101(food, self.side)]
        if is_image_folder(folder):
            return [labelled_folder(folder, self.side)]
        if found:
            return [self._slide(path) for path in found]
        raise UsageError(f"{folder}: holds neither tile stores, nor slides, nor pictures in folders of classes")

    def _store(self, path: str | Path) -> LabelledTiles:
        source = StoreSource(path)
        if self.label is None:
            known = source.store.labels
            raise UsageError(f"{path}: which label? (--label){'; it has ' + ', '.join(known) if known else ''}")
        return label_from_store(source, self.label)

    def _slide(self, path: str | Path) -> LabelledTiles:
        if self.tiler is None:
            raise UsageError(f"{path}: is no tile store; {TILE_FIRST}")
        source = StoreSource(self.tiler.store(path))
        label = self.label or LABEL
        if label not in source.store.labels:
            raise UsageError(
                f"{path}: where are its labels? There are no annotations beside it (its name with .geojson or .xml), "
                f"which give the label {LABEL!r}; or give a cohort table (.csv) with its path and a label"
            )
        return label_from_store(source, label)


def _wanted(parts: list[LabelledTiles], options: SlideOptions) -> list[LabelledTiles]:
    """Take the stores of the scale and tile size that were asked for; say how many others there were."""

    def fits(part: LabelledTiles) -> bool:
        source = part.source
        right_size = options.tile_size in (None, source.size)
        return not isinstance(source, StoreSource) or (right_size and same_scale(options.mpp, source.mpp))

    found = [part for part in parts if fits(part)]
    if not found:
        asked = [f"{options.mpp} microns per pixel"] if options.mpp else []
        asked += [f"tiles of {options.tile_size} px"] if options.tile_size else []
        raise UsageError(f"none of the {len(parts)} stores has {' and '.join(asked)}")
    if len(found) < len(parts):
        _log.warning(
            "%d of %d stores have another scale or tile size and are left out", len(parts) - len(found), len(parts)
        )
    return found
