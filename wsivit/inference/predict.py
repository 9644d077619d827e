"""Run a model over the tiles of a store, or straight over a slide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from wsivit.errors import OutputExistsError, StoreError, UsageError, WsivitError
from wsivit.inference.allocator import keep_freed_memory
from wsivit.inference.compatibility import check_compatibility
from wsivit.inference.options import Engine, Precision, ScoringOptions  # noqa: F401 - types of inherited fields, looked up here
from wsivit.inference.prediction_columns import first_tiles, predictions_of, write_features, write_scores
from wsivit.inference.runner import ModelRunner
from wsivit.io import LEARNING, map_ordered, versions
from wsivit.models import Model, ModelSpec, open_model
from wsivit.slide import Slide
from wsivit.store import VIEWS, TileStore

if TYPE_CHECKING:
    from wsivit.tiling import TileOptions

PathLike = str | os.PathLike[str]
Source = PathLike | Slide | TileStore

_COMPARED = 256
"""Tiles on which 8 bits are compared with float32."""


@dataclass(frozen=True)
class PredictOptions(ScoringOptions):
    """How a model is run, and on which tiles.

    Parameters
    ----------
    batch_size : int
        Tiles per step.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; several, with commas, share slides.
    precision : {"auto", "fp32", "bf16", "fp16"}
        Of the arithmetic. ``auto``: half on a GPU (bf16 where it has that), fp32 on the CPU.
    engine : {"torch", "onnx", "onnx-int8"}
        ``onnx`` runs on the CPU by ONNX Runtime, ``onnx-int8`` with weights of 8 bits: how well these agree is told.
    compile : bool
        Have torch compile the model: slow to begin, then faster.
    tta : bool
        Look at each tile in its eight flips and turns: the mean counts, and their spread is kept.
    features : bool
        Write what the last layer sees of each tile to ``features/<name>``, in place of predictions.
    mpp : float, optional
        Scale at which a slide is tiled, in microns per pixel. Default: the run's.
    tile_size : int, optional
        Side of the tiles of a slide, in pixels. Default: the run's.
    temperature : float, optional
        The logits are divided by it. Default: the run's. Predictions that are there are changed without the model.
    trust_torchscript : bool
        Run a TorchScript model: it is a program, which could do anything.
    allow_mismatch : bool
        Go on where scale, tile size, classes or preprocessing break the run's contract; it is recorded.
    """

    mpp: float | None = None
    tile_size: int | None = None
    temperature: float | None = None
    trust_torchscript: bool = False
    allow_mismatch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise UsageError(f"temperature must be above 0, not {self.temperature}")


def predict(
    model: PathLike,
    source: Source,
    *,
    output: PathLike | None = None,
    name: str | None = None,
    options: PredictOptions = PredictOptions(),
    force: bool = False,
    progress: bool = False,
) -> TileStore:
    """Run a model over the tiles of a store, or straight over a slide.

    Probabilities go to ``predictions/<name>`` of the store, NaN for tiles that cannot be read. From a slide, a store of
    coordinates is made first, at the run's scale and tile size, and the pixels are read from the slide as they are
    needed. Killed and run again, it goes on after the last whole block of tiles; done already, it does nothing.

    Parameters
    ----------
    model : path or str
        A run folder made by ``wsivit train``; or an image classifier as it was published: a timm name, a hub id, or a
        folder with ``config.json`` and ``model.safetensors`` or (of the WSInfer zoo) ``torchscript_model.pt``.
    source : path, Slide or TileStore
        A tile store or a slide. A slide whose file does not tell its scale: with ``--slide-mpp`` on the command line,
        as ``open_slide(path, mpp=…)`` in Python.
    output : path or URL, optional
        Folder for the store of a slide. Default: where the command runs.
    name : str, optional
        Name of the predictions in the store. Default: the model's.
    options : PredictOptions
        Batch size, device, engine, test-time augmentation, features.
    force : bool
        Predict again, and replace predictions of the same name, also those of another model.
    progress : bool
        Show a progress bar.

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
        In order; the outcome is the store with its predictions, or what went wrong with this one.
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
        keep_freed_memory()  # before torch is loaded, which begins threads
        opened = open_model(model, trust_torchscript=options.trust_torchscript)
        self.spec = _as_asked(opened.spec, options)
        self.name = name or self.spec.name
        self._model = Model(self.spec, opened.load)

    @cached_property
    def scorer(self) -> ModelRunner:
        """The model on its device."""
        return ModelRunner(self._model, self.options)

    def __call__(
        self, source: Source, *, output: PathLike | None = None, force: bool = False, progress: bool = False
    ) -> TileStore:
        """Run the model over one store or slide; see `predict`."""
        store = self._open(source, output, progress)
        mismatch = check_compatibility(self.spec, store, allow=self.options.allow_mismatch)
        if self.options.features:
            self._write_features(store, mismatch, force, progress)
        else:
            self._write_predictions(store, mismatch, force, progress)
        return TileStore(store.files.location)

    def _open(self, source: Source, output: PathLike | None, progress: bool) -> TileStore:
        """Return the store, made of coordinates only where a slide was given."""
        if isinstance(source, TileStore):
            return source
        if not isinstance(source, Slide) and (TileStore.is_store(source) or str(source).rstrip("/").endswith(".zarr")):
            return TileStore(source)
        from wsivit.tiling import tile

        return tile(source, output or ".", self.tile_options, progress=progress).store

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

    def _write_predictions(self, store: TileStore, mismatch: list[str], force: bool, progress: bool) -> None:
        if not self.spec.classes:
            raise UsageError(
                f"{self.spec.name} is an encoder, without classes: --features keeps what it makes of each tile; "
                "wsivit train gives it classes"
            )
        if not force and self._is_there(store, store.runs, lambda: store.predictions(self.name).attrs):
            self._apply_temperature(store)
            return
        attrs = self._about(mismatch) | {"temperature": self.spec.temperature}
        if self.options.int8 and len(store.readable):
            attrs["agreement"] = asdict(self.scorer.agreement(first_tiles(store, _COMPARED)))
        keeps = ("views", "spread") if self.options.tta else ("logits",)
        with store.predictions_writer(self.name, self.spec.classes, attrs, keeps) as writer:
            write_scores(store, self.scorer, writer, progress=progress)
            writer.finish()

    def _write_features(self, store: TileStore, mismatch: list[str], force: bool, progress: bool) -> None:
        if not force and self._is_there(store, store.encoders, lambda: store.features(self.name).attrs):
            return
        (size,) = self.scorer.shape
        with store.features_writer(self.name, size, self._about(mismatch)) as writer:
            write_features(store, self.scorer, writer, progress=progress)
            writer.finish()

    def _is_there(self, store: TileStore, names: list[str], attrs: Callable[[], dict[str, Any]]) -> bool:
        """Whether the store has what this model gives; OutputExistsError for that of another one of the name."""
        if self.name not in names:
            return False
        there, wanted = attrs(), self._identity()
        if all(there.get(key, default) == wanted[key] for key, default in _UNSAID.items()):
            store.cleanup("features" if self.options.features else "predictions", self.name)
            return True
        raise OutputExistsError(
            f"{store.url}: has {'features' if self.options.features else 'predictions'} {self.name!r} by another "
            "model, or made in another way (tta, int8); choose another --name, or replace them with --force"
        )

    def _identity(self) -> dict[str, Any]:
        """What makes other numbers, beyond rounding."""
        views = VIEWS if self.options.tta else 1
        return {"model_fingerprint": self.spec.fingerprint, "views": views, "int8": self.options.int8}

    def _about(self, mismatch: list[str]) -> dict[str, Any]:
        return self._identity() | {
            "run": self.spec.name,
            "model": self.spec.model,
            "preprocessing": asdict(self.spec.preprocessing),
            "mismatch": mismatch,
            "device": self.scorer.device.type,
            "engine": self.options.engine,
            "precision": self.scorer.precision,
            "versions": versions(LEARNING),
        }

    def _apply_temperature(self, store: TileStore) -> None:
        """Bring the probabilities that are there to the temperature asked for; the logits are kept for that."""
        there = store.predictions(self.name)
        if there.attrs.get("temperature") == self.spec.temperature:
            return
        if there.logits is None:
            raise StoreError(f"{store.url}: predictions {self.name!r} have no logits: predict again with --force")
        made = predictions_of(there.logits, there.classes, self.spec.temperature)
        attrs = there.attrs | {"temperature": self.spec.temperature}
        store.write_predictions(self.name, replace(made, attrs=attrs))


_UNSAID = {"model_fingerprint": None, "views": 1, "int8": False}


def _as_asked(spec: ModelSpec, options: PredictOptions) -> ModelSpec:
    """Fill in what the model does not say, and the temperature asked for; what it says is its own."""
    return replace(
        spec,
        mpp=options.mpp if spec.mpp is None else spec.mpp,
        tile_size=options.tile_size if spec.tile_size is None else spec.tile_size,
        temperature=spec.temperature if options.temperature is None else options.temperature,
    )
