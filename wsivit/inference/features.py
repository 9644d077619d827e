"""What encoders make of every tile of a slide: a vector each, kept in its store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wsivit._keywords import options_as_keywords
from wsivit.errors import OutputExistsError, UsageError
from wsivit.inference.blocks import BlockJob, run_blocks
from wsivit.inference.cpu import keep_freed_memory
from wsivit.inference.options import Precision, ScoringOptions
from wsivit.inference.predict import PathLike, check_compatibility, open_tiles
from wsivit.inference.runner import ModelRunner
from wsivit.io import LEARNING, versions
from wsivit.models import Model, Pooling, find_encoder, open_model
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
        Scale at which slides are tiled, in microns per pixel. Default: the encoder's.
    tile_size : int, optional
        Side of the tiles of slides, in pixels. Default: the encoder's.
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
    allow_mismatch : bool
        Use stores whose scale or tile size is not the encoder's; it is recorded.
    """

    weights: str | None = None
    pooling: Pooling | None = None
    mpp: float | None = None
    tile_size: int | None = None
    batch_size: int = 64
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    allow_other_weights: bool = False
    allow_mismatch: bool = False

    def __post_init__(self) -> None:
        self.scoring()  # which checks what the two have in common

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
        The store's scale or tile size is not the encoder's.
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
        wanted = [number for number, model in enumerate(self._models) if force or not _is_there(store, model)]
        allow = self.options.allow_mismatch
        mismatches = [check_compatibility(model.spec, store, allow=allow) for model in self._models]
        with ExitStack() as stack:
            jobs, writers = [], []
            for number in wanted:
                runner, model = self.runners[number], self._models[number]
                writer = stack.enter_context(
                    store.features_writer(model.spec.name, runner.shape, self._attributes(runner, mismatches[number]))
                )
                writers.append(writer)
                jobs.append(BlockJob(runner, writer.pending(), writer.write))
            run_blocks(store, jobs, progress=progress, doing="encoding")
            for writer in writers:
                writer.finish()
        return TileStore(store.files.location)

    def _attributes(self, runner: ModelRunner, mismatch: list[str]) -> dict[str, Any]:
        spec = runner.spec
        return {
            "model_fingerprint": spec.fingerprint,
            "run": spec.name,
            "model": spec.model,
            "preprocessing": asdict(spec.preprocessing),
            "pooling": spec.pooling,
            "mismatch": mismatch,
            "device": runner.device.type,
            "precision": runner.precision,
            "versions": versions(LEARNING),
        }


def _open(name: str, options: FeaturesOptions) -> Model:
    """Open an encoder of the registry, or another network, of which the options say scale and tile size."""
    known = find_encoder(name)
    if known is not None:
        from wsivit.models import open_encoder  # loads torch

        model = open_encoder(
            known, options.weights, pooling=options.pooling, allow_other_weights=options.allow_other_weights
        )
    elif options.weights is not None or options.pooling is not None:
        raise UsageError(f"{name} is no encoder of the registry: weights and pooling are for those (wsivit encoders)")
    else:
        model = open_model(name)
    spec = model.spec
    return Model(replace(spec, mpp=spec.mpp or options.mpp, tile_size=spec.tile_size or options.tile_size), model.load)


def _is_there(store: TileStore, model: Model) -> bool:
    """Whether the store has these very features; OutputExistsError for others of the name."""
    name = model.spec.name
    if name not in store.encoders:
        return False
    if store.features(name).attrs.get("model_fingerprint") != model.spec.fingerprint:
        raise OutputExistsError(
            f"{store.url}: has features {name!r} of other weights, another input or another pooling; replace them with "
            "--force"
        )
    store.cleanup("features", name)
    return True
