"""Whether a store is what a model was made for, field by field. No torch."""

from __future__ import annotations

import numpy as np

from wsivit.data import same_scale
from wsivit.errors import StoreMismatchError
from wsivit.models import ModelSpec
from wsivit.store import TileStore


def check_compatibility(spec: ModelSpec, store: TileStore, *, allow: bool) -> list[str]:
    """Compare a store with what the model was made for; return what differs, if that is allowed.

    Raises
    ------
    StoreMismatchError
        Something differs; each difference is named.
    """
    found = differences(spec, store)
    if found and not allow:
        raise StoreMismatchError(
            f"{store.url} does not fit {spec.name}: {'; '.join(found)}. Tile the slide for it, or go on with "
            "--allow-mismatch, which is recorded"
        )
    return found


def differences(spec: ModelSpec, store: TileStore) -> list[str]:
    """Name the fields in which a store is not what the model was made for: scale, size, pixels, classes."""
    parameters, found = store.parameters, []
    mpp = float(np.sqrt(np.prod(parameters.mpp)))
    if spec.mpp is not None and not same_scale(spec.mpp, mpp):
        found.append(f"scale: the model is for {spec.mpp:.4g} microns per pixel, the store has {mpp:.4g}")
    if spec.tile_size is not None and store.grid.tile_size != spec.tile_size:
        found.append(f"tile size: the model is for {spec.tile_size} px, the store has {store.grid.tile_size}")
    downscale = parameters.downscale
    if downscale and spec.downscale and downscale not in spec.downscale:
        learned = ", ".join(sorted(spec.downscale))
        found.append(f"preprocessing: the model learned from tiles scaled by {learned}, the store's are by {downscale}")
    if spec.label in store.labels and spec.classes:
        unknown = sorted(set(store.label(spec.label).classes) - set(spec.classes))
        if unknown:
            known = ", ".join(spec.classes)
            found.append(f"classes: the model knows {known}; label {spec.label!r} has {', '.join(unknown)} as well")
    return found
