"""Run a model over the tiles of a store, or straight over a slide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsivit._keywords import options_as_keywords
from wsivit.data import read_skipping_unreadable, same_scale
from wsivit.errors import OutputExistsError, StoreError, StoreMismatchError, UsageError, WsivitError
from wsivit.inference.blocks import BlockJob, run_blocks
from wsivit.inference.cpu import keep_freed_memory
from wsivit.inference.options import PredictOptions
from wsivit.inference.runner import ModelRunner, softmax
from wsivit.inference.sample_scores import has_features
from wsivit.inference.seen_tiles import trained_on
from wsivit.io import LEARNING, map_ordered, versions
from wsivit.models import CONTRACT, LinearHead, ModelSpec, RunMetadata, open_model
from wsivit.slide_list import Source, Sources, takes_many
from wsivit.store import VIEWS, Predictions, TileStore

if TYPE_CHECKING:
    from wsivit.tiling import TileOptions

PathLike = str | os.PathLike[str]

_COMPARED = 256
"""Tiles on which 8 bits are compared with float32."""
_IDENTITY_DEFAULTS = {"model_fingerprint": None, "views": 1, "int8": False}


@takes_many("source")
@options_as_keywords
def predict(
    model: PathLike,
    source: Sources,
    *,
    output: PathLike | None = None,
    name: str | None = None,
    options: PredictOptions = PredictOptions(),
    force: bool = False,
    progress: bool = False,
    **keywords: Any,
) -> TileStore:
    """Run a model over the tiles of a store, or straight over a slide.

    Probabilities go to ``predictions/<name>`` of the store, NaN for tiles that cannot be read. A slide is tiled first,
    into a store of coordinates at the run's scale and tile size, and its pixels are read from the slide as they are
    needed. Interrupted runs resume after the last complete block of tiles; existing predictions are kept.

    Parameters
    ----------
    model : path or str
        A run folder made by ``wsivit train``; or an image classifier as it was published: a timm name, a hub id, or a
        folder with ``config.json`` and ``model.safetensors`` or (of the WSInfer zoo) ``torchscript_model.pt``.
    source : path, Slide or TileStore, or several
        A tile store or a slide. Several (a list, a folder, a table, the output of a cohort) are a `Cohort` in `output`,
        and give its `CohortResult`. A slide whose file has no scale: with ``--slide-mpp`` on the command line, as
        ``open_slide(path, mpp=…)`` in Python.
    output : path or URL, optional
        Folder for the store of a slide. Default: the working directory.
    name : str, optional
        Name of the predictions in the store. Default: the model's.
    options : PredictOptions
        Batch size, device, engine, test-time augmentation, features.
    force : bool
        Predict again, and replace predictions of the same name, also those of another model; and of a slide, replace
        coordinates of other tiles that an earlier run made.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    TileStore
        The store with the predictions.

    Raises
    ------
    UsageError
        The model is unknown, or does not say its scale and tile size and none are given.
    StoreError
        The run or the store is damaged, or the model gives no numbers.
    StoreMismatchError
        The store's scale, tile size, classes or preprocessing is not the run's; each difference is named.
    OutputExistsError
        The store has predictions of that name by another model.
    """
    return Predictor(model, name=name, options=options)(source, output=output, force=force, progress=progress)


def predict_each(
    model: PathLike,
    sources: Iterable[Source],
    *,
    output: PathLike | None = None,
    name: str | None = None,
    options: PredictOptions = PredictOptions(),
) -> Iterator[tuple[Source, TileStore | WsivitError]]:
    """Run a model over many stores or slides, loading it once per device; several devices share the slides.

    Parameters
    ----------
    model, output, name, options
        As of `predict`.
    sources : iterable of path, Slide or TileStore
        Drawn as they are needed.

    Yields
    ------
    source, outcome
        In order; the outcome is the store with its predictions, or the error of this one.
    """
    devices = [device.strip() for device in options.device.split(",")]
    free: SimpleQueue[Predictor] = SimpleQueue()
    for device in devices:
        free.put(Predictor(model, name=name, options=replace(options, device=device)))

    def run(source: Source) -> tuple[Source, TileStore | WsivitError]:
        predictor = free.get()
        try:
            return source, predictor(source, output=output)
        except WsivitError as error:
            return source, error
        finally:
            free.put(predictor)

    with ThreadPoolExecutor(len(devices)) as pool:
        yield from map_ordered(pool, run, sources, ahead=len(devices))


class Predictor:
    """A model for one slide after the other. Its weights are loaded at the first one that needs them.

    Parameters
    ----------
    model, name, options
        As of `predict`.
    """

    def __init__(self, model: PathLike, *, name: str | None = None, options: PredictOptions = PredictOptions()) -> None:
        self.options = options
        keep_freed_memory()  # before torch is loaded, which starts threads
        self._origin = model
        opened = open_model(model, trust_torchscript=options.trust_torchscript, weights=options.weights)
        spec = opened.spec
        # Options fill in what the model does not say of its tiles; what it says is its own.
        self.spec = replace(
            spec,
            mpp=options.mpp if spec.mpp is None else spec.mpp,
            tile_size=options.tile_size if spec.tile_size is None else spec.tile_size,
            temperature=spec.temperature if options.temperature is None else options.temperature,
        )
        self.name = name or self.spec.name
        self._model = replace(opened, spec=self.spec)

    @cached_property
    def runner(self) -> ModelRunner:
        """The model on its device."""
        return ModelRunner(self._model, self.options)

    @property
    def tile_options(self) -> TileOptions:
        """How slides are tiled for this model: coordinates only; UsageError where neither it nor the options say."""
        from wsivit.tiling import TileOptions

        mpp, tile_size = self.options.mpp or self.spec.mpp, self.options.tile_size or self.spec.tile_size
        if mpp is None or tile_size is None:
            what = "the scale (--mpp)" if mpp is None else "the tile size (--tile-size)"
            raise UsageError(f"{self.spec.name} does not say {what} of its tiles: give it, or give a store")
        downscale: Any = "area" if self.spec.downscale == {"area"} else "dct"
        return TileOptions(mpp=mpp, tile_size=tile_size, codec="none", downscale=downscale)

    def __call__(
        self, source: Sources, *, output: PathLike | None = None, force: bool = False, progress: bool = False
    ) -> TileStore:
        """Run the model over one store or slide; see `predict`."""
        store = open_tiles(source, output, lambda: self.tile_options, force=force, progress=progress)
        mismatch = check_compatibility(self.spec, store, allow=self.options.allow_mismatch)
        views = VIEWS if self.options.tta else 1
        if not self.spec.classes:
            raise UsageError(
                f"{self.spec.name} is an encoder, without classes: wsivit features keeps its output for each tile; "
                "wsivit train gives it classes"
            )
        # What makes other numbers, beyond rounding.
        identity = {"model_fingerprint": self.spec.fingerprint, "views": views, "int8": self.options.int8}
        if not force and self.name in store.runs:
            attrs = store.predictions(self.name).attrs
            if any(attrs.get(key, default) != identity[key] for key, default in _IDENTITY_DEFAULTS.items()):
                raise OutputExistsError(
                    f"{store.url}: has predictions {self.name!r} by another model, or made in another way (tta, int8); "
                    "choose another --name, or replace them with --force"
                )
            store.cleanup("predictions", self.name)
            self._apply_temperature(store)
            return TileStore(store.files.location)

        attrs = identity | {
            "run": self.spec.name,
            "model": self.spec.model,
            "preprocessing": asdict(self.spec.preprocessing),
            "mismatch": mismatch,
            "trained_on": self._trained_on(store),
            "versions": versions(LEARNING),
            "temperature": self.spec.temperature,
        }
        head = self._model.head
        if head is not None and has_features(store, head) and views == 1 and self.options.engine == "torch":
            self._write_from_features(store, head, attrs)
        else:
            attrs |= {
                "device": self.runner.device.type,
                "engine": self.options.engine,
                "precision": self.runner.precision,
            }
            self._write_predictions(store, attrs, progress)
        return TileStore(store.files.location)

    def _write_from_features(self, store: TileStore, head: LinearHead, attrs: dict[str, Any]) -> None:
        """Predict from the features that the store has: no weights are loaded, no tile is read."""
        features = store.features(head.column).values
        attrs |= {"features": head.column}
        with store.predictions_writer(self.name, self.spec.classes, attrs, ("logits",)) as writer:
            for block in writer.pending():
                logits = head(features[block.start : block.stop])
                result = _predictions_of(logits, self.spec.classes, self.spec.temperature)
                writer.write(block, result.probabilities, logits, result.spread)
            writer.finish()

    def _trained_on(self, store: TileStore) -> list[list[int]] | None:
        """Tiles that the model learned from; published models do not say."""
        is_run = (Path(self._origin) / CONTRACT).is_file()
        return trained_on(self._origin, RunMetadata.read(self._origin), store) if is_run else []

    def _write_predictions(self, store: TileStore, attrs: dict[str, Any], progress: bool) -> None:
        readable = store.readable
        if self.options.int8 and len(readable):
            evenly = readable[np.linspace(0, len(readable) - 1, min(_COMPARED, len(readable))).astype(np.int64)]
            tiles = read_skipping_unreadable(store.read, evenly, store.grid.tile_size)[1]
            attrs["agreement"] = asdict(self.runner.agreement(tiles))
        keeps = ("views", "spread") if self.options.tta else ("logits",)
        with store.predictions_writer(self.name, self.spec.classes, attrs, keeps) as writer:

            def write(block: range, logits: NDArray[Any]) -> None:
                result = _predictions_of(logits, self.spec.classes, self.spec.temperature)
                writer.write(block, result.probabilities, logits, result.spread)

            run_blocks(store, [BlockJob(self.runner, writer.pending(), write)], progress=progress)
            writer.finish()

    def _apply_temperature(self, store: TileStore) -> None:
        """Bring existing probabilities to the temperature asked for; the logits are kept for that."""
        existing = store.predictions(self.name)
        if existing.attrs.get("temperature") == self.spec.temperature:
            return
        if existing.logits is None:
            raise StoreError(f"{store.url}: predictions {self.name!r} have no logits: predict again with --force")
        result = _predictions_of(existing.logits, existing.classes, self.spec.temperature)
        attrs = existing.attrs | {"temperature": self.spec.temperature}
        store.write_predictions(self.name, replace(result, attrs=attrs))


def _predictions_of(logits: NDArray[Any], classes: tuple[str, ...], temperature: float) -> Predictions:
    """Make probabilities of logits (n, classes); of several views (n, views, classes) their mean and their spread."""
    probabilities = softmax(logits / np.float32(temperature))
    if probabilities.ndim == 2:
        return Predictions(probabilities, classes, logits=logits)
    return Predictions(probabilities.mean(axis=1), classes, logits=logits, spread=probabilities.std(axis=1))


def open_tiles(
    source: Sources, output: PathLike | None, tile_options: Callable[[], TileOptions], *, force: bool, progress: bool
) -> TileStore:
    """Return the store that is given; of a slide, one of coordinates only, made as the options say."""
    if isinstance(source, TileStore):
        return source
    if isinstance(source, str | os.PathLike) and (
        TileStore.is_store(source) or str(source).rstrip("/").endswith(".zarr")
    ):
        return TileStore(source)
    from wsivit.tiling import TilingTarget, ensure_open, tile_into

    options = tile_options()  # may refuse: before the slide is opened
    with ensure_open(source, None) as slide:
        target = TilingTarget.in_folder(output or ".", slide)
        # Tiles with pixels are someone's work: only coordinates are replaced.
        existing = TileStore(target.store, allow_incomplete=True) if TileStore.is_store(target.store) else None
        disposable = existing is not None and not existing.has_pixels
        try:
            return tile_into(target, slide, options, force=force and disposable, progress=progress).store
        except StoreMismatchError as error:
            if disposable or existing is None:
                raise
            raise StoreMismatchError(
                f"{existing.url} holds other tiles than the model needs ({options.tile_size} px at {options.mpp:g} "
                "microns per pixel): write to another folder (--output), or give that store in place of the slide"
            ) from error


def check_compatibility(spec: ModelSpec, store: TileStore, *, allow: bool) -> list[str]:
    """Compare a store with what the model was made for: scale, tile size, pixels, classes; return the differences.

    Raises
    ------
    StoreMismatchError
        Something differs and that is not allowed; each difference is named.
    """
    parameters = store.parameters
    differences = tile_differences(spec, store.grid.tile_size, float(np.sqrt(np.prod(parameters.mpp))))
    downscale = parameters.downscale
    if downscale and spec.downscale and downscale not in spec.downscale:
        differences.append(
            f"preprocessing: the model learned from tiles scaled by {', '.join(sorted(spec.downscale))}, "
            f"the store's are by {downscale}"
        )
    if spec.label in store.labels and spec.classes:
        unknown = sorted(set(store.label(spec.label).classes) - set(spec.classes))
        if unknown:
            differences.append(
                f"classes: the model knows {', '.join(spec.classes)}; label {spec.label!r} has {', '.join(unknown)} too"
            )
    if differences and not allow:
        ways = "; an encoder reads what it needs from the slide with --resample" if not spec.classes else ""
        raise StoreMismatchError(
            f"{store.url} does not fit {spec.name}: {'; '.join(differences)}. Tile the slide for it, or use the store "
            f"all the same with --allow-mismatch, which is recorded{ways}"
        )
    return differences


def tile_differences(spec: ModelSpec, tile_size: int, mpp: float) -> list[str]:
    """Name what differs between tiles and those that a model is for: scale in microns per pixel, and size."""
    differences = []
    if spec.mpp is not None and not same_scale(spec.mpp, mpp):
        differences.append(f"scale: the model is for {spec.mpp:.4g} microns per pixel, the store has {mpp:.4g}")
    if spec.tile_size is not None and tile_size != spec.tile_size:
        differences.append(f"tile size: the model is for {spec.tile_size} px, the store has {tile_size}")
    return differences
