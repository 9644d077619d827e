"""Features as AnnData, for scanpy and squidpy: written by its documented format, without the library.

The format is at https://anndata.readthedocs.io/en/stable/fileformat-prose.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wsivit.heatmap.feature_bag import FeatureBag, import_h5py
from wsivit.io import replacing


def write_h5ad(bag: FeatureBag, path: Path) -> None:
    """Write features as ``X``, tiles as ``obs`` with their labels, corners in level-0 pixels as ``obsm["spatial"]``.

    Raises
    ------
    UsageError
        If the store has no features, or h5py is not installed.
    """
    h5py = import_h5py()
    store, tiles, features = bag.store, bag.tiles, bag.required_features
    place = {name: getattr(store, name)[tiles] for name in ("col", "row", "x0", "y0")}
    names = [f"{bag.slide_id}_{col}_{row}" for col, row in zip(place["col"], place["row"], strict=True)]
    about: dict[str, str | float] = {
        "slide_id": bag.slide_id,
        "slide_fingerprint": store.parameters.slide_fingerprint,
        "encoder": str(bag.encoder),
        "encoder_fingerprint": bag.fingerprint,
        "mpp": store.parameters.mpp[0],
        "slide_mpp": store.parameters.slide_mpp[0],
        "tile_size": store.grid.tile_size,
    }
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_array(file, "X", features.astype(np.float32))
        obs = _write_frame(file, "obs", names, place)
        labels = {name: store.label(name) for name in store.labels}
        for name, label in labels.items():
            group = _group(obs, f"label_{name}", "categorical", "0.2.0", ordered=False)
            _write_array(group, "codes", label.codes[tiles].astype(np.int16))
            _write_strings(group, "categories", label.classes)
        obs.attrs["column-order"] = [*place, *(f"label_{name}" for name in labels)]
        _write_frame(file, "var", [f"{bag.encoder}_{k}" for k in range(features.shape[1])], {})
        _write_array(_group(file, "obsm"), "spatial", bag.coords)
        for name in ("layers", "obsp", "varm", "varp"):
            _group(file, name)
        details = _group(_group(file, "uns"), "wsivit")
        for name, value in about.items():
            _write_scalar(details, name, value)


def _group(parent: Any, name: str, kind: str = "dict", version: str = "0.1.0", **attributes: Any) -> Any:
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": kind, "encoding-version": version, **attributes})
    return group


def _write_array(group: Any, name: str, values: ArrayLike) -> None:
    dataset = group.create_dataset(name, data=values)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _write_strings(group: Any, name: str, values: Sequence[str]) -> None:
    dataset = group.create_dataset(name, data=list(values), dtype=import_h5py().string_dtype())
    dataset.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def _write_scalar(group: Any, name: str, value: str | float) -> None:
    kind = "string" if isinstance(value, str) else "numeric-scalar"
    group[name] = value
    group[name].attrs.update({"encoding-type": kind, "encoding-version": "0.2.0"})


def _write_frame(file: Any, name: str, index: Sequence[str], columns: Mapping[str, ArrayLike]) -> Any:
    frame = _group(file, name, "dataframe", "0.2.0", _index="_index")
    frame.attrs["column-order"] = np.array(list(columns), dtype=import_h5py().string_dtype())
    _write_strings(frame, "_index", index)
    for column, values in columns.items():
        _write_array(frame, column, values)
    return frame
