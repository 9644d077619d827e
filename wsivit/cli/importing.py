"""``wsivit import``: tiles and features that other tools have made."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from cyclopts import Parameter

from wsivit import import_features
from wsivit import import_tiles as _import_tiles
from wsivit.cli.app import Report
from wsivit.cli.common import FLAG, FLAT, OpenOptions, in_sections
from wsivit.cli.slides import describe_tiling
from wsivit.errors import UsageError
from wsivit.models import Pooling
from wsivit.models import encoder as encoder_of
from wsivit.store import TileStore
from wsivit.tiling import ImportOptions

FORCE = Parameter(
    negative=(), help="Replace a store with other parameters or of another slide; with --encoder, its features."
)


@in_sections
def import_tiles(
    coordinates: str,
    slide: str,
    *,
    output: str = ".",
    options: Annotated[ImportOptions, FLAT] = ImportOptions(),
    encoder: str | None = None,
    pooling: Pooling | None = None,
    allow_mismatch: Annotated[bool, FLAG] = False,
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    force: Annotated[bool, FORCE] = False,
) -> Report:
    """Import the tiles that another tool has chosen, and with `encoder` the features that it made of them.

    Without `encoder`, make a store of the tiles. It holds coordinates only: pixels are read from the slide when they
    are needed. With it, the features go to ``features/<encoder>`` of the slide's store, each to the tile at its
    coordinates; a store is made of the file's tiles where there is none.

    Parameters
    ----------
    coordinates : str
        ``.h5`` of TRIDENT, CLAM or STAMP, ``.coordinates.npz`` of hs2p, ``tile_embeddings/<slide>.npz`` of slide2vec,
        ``<slide>.embeddings.zarr`` of raw2features, ``.csv`` of WSInfer, or what ``wsivit export`` writes as ``h5`` and
        ``csv``.
    slide : str
        The slide; with `encoder` its store will do.
    output : path or URL
        Folder for the store, ``<slide_id>.zarr``, and its preview.
    encoder : str, optional
        Name of the encoder in the registry (``wsivit encoders`` lists it) whose features the file holds.
    pooling : {"cls", "cls+mean", "mean", "own", "tokens"}, optional
        What of the encoder's output they are. Default: the registry's; another one becomes part of the name.
    allow_mismatch : bool
        Accept features of tiles of another scale or size than the encoder's; it is recorded.
    """
    if encoder is None:
        if pooling is not None or allow_mismatch:
            raise UsageError("--pooling and --allow-mismatch are for features: name their --encoder")
        made = _import_tiles(coordinates, open_options.open(slide), output, options, force=force)
        return Report(describe_tiling(made))
    target = slide if TileStore.is_store(slide) or slide.rstrip("/").endswith(".zarr") else open_options.open(slide)
    store = import_features(
        coordinates,
        target,
        encoder,
        output=output,
        options=options,
        pooling=pooling,
        allow_mismatch=allow_mismatch,
        force=force,
    )
    name = encoder_of(encoder).with_pooling(pooling).column_name
    made_by = store.features(name).attrs["imported"]
    moved = f", {made_by['snapped']} of them moved to the nearest tile" if made_by["snapped"] else ""
    count = int(np.isfinite(store.features(name).values[:, 0]).sum())
    return Report(f"{count} vectors of {name} from {made_by['form']}{moved}\nstore    {store.url}")
