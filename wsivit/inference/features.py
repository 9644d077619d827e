"""What encoders make of every tile of a slide: a vector each, kept in its store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from wsivit._keywords import options_as_keywords
from wsivit.errors import OutputExistsError, UsageError
from wsivit.inference.blocks import BlockJob, ReadTiles, run_blocks
from wsivit.inference.cpu import keep_freed_memory
from wsivit.inference.options import Precision, ScoringOptions
from wsivit.inference.predict import PathLike, check_compatibility, open_tiles, tile_differences
from wsivit.inference.resampled_tiles import ResampledTiles
from wsivit.inference.runner import ModelRunner
from wsivit.io import LEARNING, versions
from wsivit.models import Model, ModelSpec, Pooling, find_encoder, open_model
from wsivit.ranges import BatchSize, Mpp, TileSize, check_options
from wsivit.slide_list import Sources, takes_many
from wsivit.store import TileStore

if TYPE_CHECKING:
    from wsivit.tiling import TileOptions


@dataclass(frozen=True)
class FeaturesOptions:
    """How encoders are run, and on which tiles.

    Parameters
    ----------
    weights : str, optional
        File or folder of the encoder's weights. Default: the hub's, at the registry's revision.
    pooling : {"cls", "cls+mean", "mean", "own", "tokens"}, optional
        What of the encoder's output is kept. Default: the registry's; another one becomes part of the name.
    mpp : float, optional
        Scale of the tiles, in microns per pixel: slides are tiled at it, stores must have it. Default: the encoder's;
        another one is recorded.
    tile_size : int, optional
        Side of the tiles, in pixels, in the same way. Default: the encoder's.
    batch_size : int
        Tiles per step.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    precision : {"auto", "fp32", "bf16", "fp16"}
        Of the arithmetic. ``auto``: half on a GPU (bf16 where it has that), fp32 on the CPU.
    compile : bool
        Have torch compile the network: slow to start, then faster.
    allow_other_weights : bool
        Use weights with another checksum than the registry's; the features' fingerprint is then another one.
    resample : bool
        Where the tiles of a store have another scale or size than the encoder's, read what it needs from the slide,
        around the middle of each tile.
    allow_mismatch : bool
        Where they have, resize the store's tiles to the encoder's input all the same; it is recorded.
    """

    weights: str | None = None
    pooling: Pooling | None = None
    mpp: Mpp | None = None
    tile_size: TileSize | None = None
    batch_size: BatchSize = 64
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    allow_other_weights: bool = False
    resample: bool = False
    allow_mismatch: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.resample and self.allow_mismatch:
            raise UsageError("resample or allow_mismatch: tiles of another scale are read anew, or resized as they are")

    def scoring(self) -> ScoringOptions:
        """Return how the networks are run."""
        return ScoringOptions(
            batch_size=self.batch_size, device=self.device, precision=self.precision, compile=self.compile
        )


@takes_many("source")
@options_as_keywords
def features(
    source: Sources,
    encoder: PathLike | Sequence[PathLike],
    *,
    output: PathLike | None = None,
    options: FeaturesOptions = FeaturesOptions(),
    force: bool = False,
    progress: bool = False,
    **keywords: Any,
) -> TileStore:
    """Keep what encoders make of every tile of a store, or of a slide.

    The vectors go to ``features/<encoder>`` of the store, float16 (n, d), NaN for tiles that cannot be read, with the
    fingerprint of weights, input and pooling. A slide is tiled first, into a store of coordinates at the encoder's
    scale and tile size. Several encoders read the slide once. Interrupted runs resume after the last complete block of
    tiles; existing features are kept.

    Parameters
    ----------
    source : path, Slide or TileStore, or several
        A slide, or a tile store. Several (a list, a folder, a table, the output of a cohort) are a `Cohort` in
        `output`, and give its `CohortResult`.
    encoder : str or path, or a sequence of these
        A name of the registry (``wsivit encoders`` lists it), whatever its case, dashes and underscores; or another
        network without its last layer: a timm name, a hub id, a model folder, a run folder.
    output : path or URL, optional
        Folder for the store of a slide. Default: the working directory.
    options : FeaturesOptions
        Weights, pooling, scale, batch size, device.
    force : bool
        Replace features of the same name that were made in another way; and of a slide, coordinates of other tiles.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    TileStore
        The store with the features.

    Raises
    ------
    UsageError
        An encoder is unknown, cannot be run here, or its weights cannot be had or are not the registry's; encoders of
        different tiles.
    StoreError
        The store or the weights are damaged, or the network gives no numbers.
    StoreMismatchError
        The store's scale or tile size is not the encoder's, and neither `resample` nor `allow_mismatch` is set.
    OutputExistsError
        The store has features of that name with another fingerprint.
    """
    return FeatureExtractor(encoder, options=options)(source, output=output, force=force, progress=progress)


class FeatureExtractor:
    """Encoders for one slide after the other. Their weights are loaded at the first slide that needs them.

    Parameters
    ----------
    encoder, options
        As of `features`.
    """

    def __init__(self, encoder: PathLike | Sequence[PathLike], *, options: FeaturesOptions = FeaturesOptions()) -> None:
        names = [os.fspath(name) for name in ([encoder] if isinstance(encoder, str | os.PathLike) else encoder)]
        if not names:
            raise UsageError("no encoder is given")
        if len(names) > 1 and options.weights is not None:
            raise UsageError("weights are of one encoder: extract the features of each by itself, or leave them out")
        self.options = options
        self._last_resampled: tuple[tuple[str, float, int], ReadTiles] | None = None
        keep_freed_memory()  # before torch is loaded, which starts threads
        self._models = [_open(name, options) for name in names]
        self.names = [model.spec.name for model in self._models]
        if len(set(self.names)) < len(self.names):
            raise UsageError(f"an encoder is named twice: {', '.join(self.names)}")

    @cached_property
    def runners(self) -> list[ModelRunner]:
        """The networks on their device, in the order of `names`."""
        return [ModelRunner(model, self.options.scoring(), features=True) for model in self._models]

    @property
    def tile_options(self) -> TileOptions:
        """How slides are tiled for the encoders: coordinates only; UsageError where they need different tiles."""
        from wsivit.tiling import TileOptions

        asked, specs = self.options, [model.spec for model in self._models]
        needs = {spec.name: (asked.mpp or spec.mpp, asked.tile_size or spec.tile_size) for spec in specs}
        (mpp, size), *others = dict.fromkeys(needs.values())
        if others:
            each = ", ".join(f"{name} {size} px at {mpp} microns per pixel" for name, (mpp, size) in needs.items())
            raise UsageError(f"the encoders need different tiles ({each}): extract each by itself, into its own folder")
        if mpp is None or size is None:
            what = "the scale (--mpp)" if mpp is None else "the tile size (--tile-size)"
            raise UsageError(f"{' and '.join(needs)}: nobody says {what} of its tiles: give it, or give a store")
        return TileOptions(mpp=mpp, tile_size=size, codec="none")

    def __call__(
        self, source: Sources, *, output: PathLike | None = None, force: bool = False, progress: bool = False
    ) -> TileStore:
        """Extract the features of one store or slide; see `features`."""
        store = open_tiles(source, output, lambda: self.tile_options, force=force, progress=progress)
        seen = [self._pixels(model.spec, store) for model in self._models]
        with ExitStack() as stack:
            jobs, writers = [], []
            for number, (model, (pixels, read)) in enumerate(zip(self._models, seen, strict=True)):
                if not force and _is_there(store, model, pixels):
                    continue
                runner = self.runners[number]
                writer = stack.enter_context(
                    store.features_writer(model.spec.name, runner.shape, self._attributes(runner) | pixels)
                )
                writers.append(writer)
                jobs.append(BlockJob(runner, writer.pending(), writer.write, read))
            run_blocks(store, jobs, progress=progress, doing="encoding")
            for writer in writers:
                writer.finish()
        return TileStore(store.files.location)

    def _pixels(self, spec: ModelSpec, store: TileStore) -> tuple[dict[str, Any], ReadTiles | None]:
        """Say which pixels of the slide an encoder sees, as it is recorded; and what reads them, if not the store."""
        asked = self.options
        wanted = replace(spec, mpp=asked.mpp or spec.mpp, tile_size=asked.tile_size or spec.tile_size)
        differences = check_compatibility(wanted, store, allow=asked.allow_mismatch or asked.resample)
        if differences and asked.resample:
            mpp, tile_size = wanted.mpp or store.parameters.mpp[0], wanted.tile_size or store.grid.tile_size
            return (
                {"mismatch": tile_differences(spec, tile_size, mpp), "resampled": [mpp, tile_size]},
                self._resampled(store, mpp, tile_size),
            )
        mpp = float(np.sqrt(np.prod(store.parameters.mpp)))
        return {"mismatch": tile_differences(spec, store.grid.tile_size, mpp)}, None

    def _resampled(self, store: TileStore, mpp: float, tile_size: int) -> ReadTiles:
        """Return what reads such tiles: the same for all encoders that need them, which then share the reading."""
        key = (store.url, mpp, tile_size)
        if self._last_resampled is None or self._last_resampled[0] != key:
            self._last_resampled = key, ResampledTiles(store, mpp, tile_size).read
        return self._last_resampled[1]

    def _attributes(self, runner: ModelRunner) -> dict[str, Any]:
        spec = runner.spec
        weights = {"sha256": spec.weights_sha256, "registered": spec.weights_registered}
        return {
            "model_fingerprint": spec.fingerprint,
            "run": spec.name,
            "model": spec.model,
            "weights": weights if spec.weights_sha256 else {},
            "preprocessing": asdict(spec.preprocessing),
            "pooling": spec.pooling or "own",
            "device": runner.device.type,
            "precision": runner.precision,
            "versions": versions(LEARNING),
        }


def _open(name: str, options: FeaturesOptions) -> Model:
    """Open an encoder of the registry, or another network."""
    known = find_encoder(name)
    if known is not None:
        from wsivit.models import open_encoder  # loads torch

        return open_encoder(
            known, options.weights, pooling=options.pooling, allow_other_weights=options.allow_other_weights
        )
    if options.weights is not None or options.pooling is not None:
        raise UsageError(f"{name} is no encoder of the registry: weights and pooling are for those (wsivit encoders)")
    return open_model(name)


def _is_there(store: TileStore, model: Model, pixels: dict[str, Any]) -> bool:
    """Whether the store has these very features; OutputExistsError for others of the name."""
    name = model.spec.name
    if name not in store.encoders:
        return False
    attrs = store.features(name).attrs
    if attrs.get("model_fingerprint") != model.spec.fingerprint or attrs.get("resampled") != pixels.get("resampled"):
        imported = attrs.get("imported", {}).get("form")
        origin = f"imported from {imported}" if imported else "of other weights, another input, pooling or pixels"
        raise OutputExistsError(f"{store.url}: has features {name!r} {origin}; replace them with --force")
    store.cleanup("features", name)
    return True
