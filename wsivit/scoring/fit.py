"""Whether a store is what a model was made for, field by field. No torch."""

from __future__ import annotations

import numpy as np

from wsivit.data.samples import same_scale
from wsivit.errors import StoreMismatchError
from wsivit.scoring.card import Card
from wsivit.store import TileStore


def check_fit(card: Card, store: TileStore, *, allow: bool) -> list[str]:
    """Compare a store with what the model was made for; return what differs, if that is allowed.

    Raises
    ------
    StoreMismatchError
        Something differs; each difference is named.
    """
    found = differences(card, store)
    if found and not allow:
        raise StoreMismatchError(
            f"{store.url} does not fit {card.name}: {'; '.join(found)}. Tile the slide for it, or go on with "
            "--allow-mismatch, which is recorded"
        )
    return found


def differences(card: Card, store: TileStore) -> list[str]:
    """Name the fields in which a store is not what the model was made for: scale, size, pixels, classes."""
    parameters, found = store.parameters, []
    mpp = float(np.sqrt(np.prod(parameters.mpp)))
    if card.mpp is not None and not same_scale(card.mpp, mpp):
        found.append(f"scale: the model is for {card.mpp:.4g} microns per pixel, the store has {mpp:.4g}")
    if card.tile_size is not None and store.grid.tile_size != card.tile_size:
        found.append(f"tile size: the model is for {card.tile_size} px, the store has {store.grid.tile_size}")
    downscale = parameters.downscale
    if downscale and card.downscale and downscale not in card.downscale:
        learned = ", ".join(sorted(card.downscale))
        found.append(f"preprocessing: the model learned from tiles scaled by {learned}, the store's are by {downscale}")
    if card.label in store.labels and card.classes:
        unknown = sorted(set(store.label(card.label).classes) - set(card.classes))
        if unknown:
            known = ", ".join(card.classes)
            found.append(f"classes: the model knows {known}; label {card.label!r} has {', '.join(unknown)} as well")
    return found
