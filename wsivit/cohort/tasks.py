"""What each verb does with one slide of many, and which inputs and options determine the result."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, get_args

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobOutcome, Record
from wsivit.errors import InputNotFoundError, StoreError, StoreLockedError, UnreadableTilesError, UsageError
from wsivit.heatmap import DEFAULT_FORMATS, Format, HeatmapOptions, heatmap
from wsivit.inference import FeatureExtractor, FeaturesOptions, PredictOptions, Predictor
from wsivit.io import Lock, Remote, files_at
from wsivit.models import CONTRACT
from wsivit.slide import JpegColor, Reader, Slide, TileGrid, open_slide, resolve_scale, slide_files
from wsivit.slide_list import SlideRow
from wsivit.store import Status, TileStore, document_key, read_journal, verify
from wsivit.tiling import OnUnreadableTile, TileOptions, find_annotations, store_warnings, tile_into
from wsivit.tissue import tissue_file

OpenOptions: TypeAlias = Mapping[str, Any]
"""Keywords of `open_slide`, but ``slide_mpp`` for its ``missing_mpp`` and ``override_slide_mpp`` for its ``mpp``."""

_device_locks: list[Lock] = []


class Skipped(Exception):
    """There is nothing to do for this slide, which is no failure; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A verb with its options, applied to any slide; it is sent to workers.

    Attributes
    ----------
    verb : str
    run : str
        Name of the model's run; empty for verbs without.
    """

    verb: ClassVar[str]
    run: str = ""

    @abstractmethod
    def parameters(self, slide: SlideRow) -> dict[str, Any]:
        """Everything but the input that determines the result, ready for JSON."""

    @abstractmethod
    def do(self, slide: SlideRow, layout: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """Process a slide; with `rebuild`, replace results of another input or of other parameters."""

    def signature(self, slide: SlideRow, layout: CohortLayout) -> str:
        """A digest that changes with the input: here the slide's store."""
        return document_signature(layout.store(slide))

    def fingerprint(self, slide: SlideRow) -> str:
        """Of the input's content, where its signature can change without it; else empty."""
        return ""

    def unused(self, record: Record) -> set[str]:
        """Parameters that made no difference to a slide's results, so that changing them changes nothing."""
        return set()


@dataclass(frozen=True)
class TileTask(Task):
    """Tile each slide, with so many `threads`; None for as many as there are CPUs."""

    verb = "tile"
    options: TileOptions = TileOptions()
    open_options: OpenOptions = field(default_factory=dict)
    on_unreadable_tile: OnUnreadableTile = "skip"
    threads: int | None = None

    def parameters(self, slide: SlideRow) -> dict[str, Any]:
        """See `Task`."""
        tissue = tissue_file(self.options.tissue)
        return {
            **asdict(self.options),
            "tissue_file": signature(str(tissue[0])) if tissue else "",
            "annotations": signature(slide.annotations or str((slide.path and find_annotations(slide.path)) or "")),
            **self.opening(slide),
            "on_unreadable_tile": self.on_unreadable_tile,
        }

    def unused(self, record: Record) -> set[str]:
        """See `Task`."""
        has_own_scale = record.scale and not record.scale.endswith("given")
        return {"slide_mpp"} if has_own_scale else set()

    def signature(self, slide: SlideRow, layout: CohortLayout) -> str:
        """See `Task`."""
        return signature(slide.path)

    def fingerprint(self, slide: SlideRow) -> str:
        """See `Task`."""
        with self.open(slide) as opened:
            return opened.fingerprint

    def do(self, slide: SlideRow, layout: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        with self.open(slide) as opened:
            result = tile_into(
                layout.target(slide),
                opened,
                self.options,
                annotations=slide.annotations or "auto",
                on_unreadable_tile=self.on_unreadable_tile,
                force=rebuild,
            )
        outcome = describe_store(result.store, layout, next(iter(result.failures.values()), ""))
        return replace(outcome, warning="; ".join(result.warnings))

    def open(self, slide: SlideRow) -> Slide:
        """Open a slide."""
        if not slide.path:
            raise Skipped("only its store is known, there is no slide to tile")
        options = self.opening(slide)
        mpp, missing_mpp = options.pop("override_slide_mpp"), options.pop("slide_mpp")
        opened = open_slide(slide.path, mpp=mpp, missing_mpp=missing_mpp, **options)
        opened.threads = self.threads or opened.threads
        return opened

    def opening(self, slide: SlideRow) -> dict[str, Any]:
        """How a slide is opened: as all are, but the scale that the table has for this one goes first."""
        options = {"slide_mpp": None, "override_slide_mpp": None, **self.open_options}
        return options if slide.mpp is None else {**options, "override_slide_mpp": slide.mpp}

    def check(self) -> None:
        """Raise what every slide would: UsageError or ScaleError for options that make no sense."""
        options = self.options
        TileGrid(options.tile_size, options.overlap, 1, 1, 1.0, 1.0)
        for name in ("slide_mpp", "override_slide_mpp"):
            if (mpp := self.open_options.get(name)) is not None:
                resolve_scale((), given=mpp)
        tissue = tissue_file(options.tissue)
        if tissue and not tissue[0].is_file():
            raise InputNotFoundError(f"{tissue[0]}: there is no such tissue mask")
        for name, given, known in (
            ("on_unreadable_tile", self.on_unreadable_tile, get_args(OnUnreadableTile)),
            ("reader", self.open_options.get("reader", "auto"), get_args(Reader)),
            ("jpeg_color", self.open_options.get("jpeg_color", "auto"), get_args(JpegColor)),
        ):
            if given not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {given!r}")


@dataclass(frozen=True, kw_only=True)
class ModelTask(Task):
    """Run a model over the tiles of each slide; `slides` opens those that have none, and are tiled for the model."""

    options: PredictOptions | FeaturesOptions
    slides: TileTask = TileTask()
    column: ClassVar[str]

    @abstractmethod
    def load(self) -> Predictor | FeatureExtractor:
        """Load the model once for all slides of this process, on a device of its own."""

    @abstractmethod
    def model_parameters(self) -> dict[str, Any]:
        """What says which model it is."""

    def parameters(self, slide: SlideRow) -> dict[str, Any]:
        """See `Task`."""
        # What only changes how fast the same result is computed does not count.
        options = {k: v for k, v in asdict(self.options).items() if k not in ("device", "batch_size")}
        return {**self.model_parameters(), **options, **self.slides.opening(slide)}

    def unused(self, record: Record) -> set[str]:
        """See `Task`."""
        # A store that exists is read as it was made; a slide that failed may have failed to open.
        return set() if record.state == "failed" else set(self.slides.opening(SlideRow()))

    def do(self, slide: SlideRow, layout: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        model = self.load()
        if slide.path and not TileStore.is_store(layout.store(slide)):
            with self.slides.open(slide) as opened:  # coordinates only: pixels are read from the slide
                tile_into(layout.target(slide), opened, model.tile_options)
        store = model(_open_store(slide, layout), force=rebuild)
        names = model.names if isinstance(model, FeatureExtractor) else [model.name]
        outputs = tuple(f"{layout.relative(store.url)}/{self.column}/{name}/zarr.json" for name in names)
        return replace(describe_store(store, layout), outputs=outputs)


@dataclass(frozen=True, kw_only=True)
class PredictTask(ModelTask):
    """Run a model over the tiles of each slide."""

    verb, column = "predict", "predictions"
    model: str
    options: PredictOptions

    def load(self) -> Predictor:
        """See `ModelTask`."""
        predictor: Predictor = _load(Predictor, self.model, self.options, name=self.run)
        return predictor

    def model_parameters(self) -> dict[str, Any]:
        """See `ModelTask`."""
        run_folder = signature(posixpath.join(self.model, CONTRACT))
        return {"model": f"{self.model} {run_folder}".rstrip()}


@dataclass(frozen=True, kw_only=True)
class FeaturesTask(ModelTask):
    """Keep what encoders make of the tiles of each slide."""

    verb = column = "features"
    encoders: tuple[str, ...]
    options: FeaturesOptions

    def load(self) -> FeatureExtractor:
        """See `ModelTask`."""
        extractor: FeatureExtractor = _load(FeatureExtractor, self.encoders, self.options)
        return extractor

    def model_parameters(self) -> dict[str, Any]:
        """See `ModelTask`."""
        weights = signature(self.options.weights) if self.options.weights else ""
        return {"encoders": list(self.encoders), "weights_file": weights}


@lru_cache(maxsize=1)
def _load(kind: Callable[..., Any], model: Any, options: PredictOptions | FeaturesOptions, **more: str) -> Any:
    return kind(model, options=replace(options, device=claim_device(options.device)), **more)


@cache
def claim_device(devices: str) -> str:
    """Claim one of several devices, separated by commas: the first that the fewest processes of this machine have.

    The claim is a lock that ends with the process, however that ends, so a worker that replaces a lost one gets its
    device. ``auto`` stands for all GPUs that this process sees.
    """
    each = [device.strip() for device in devices.split(",")]
    if each == ["auto"]:
        import torch

        each = [f"cuda:{k}" for k in range(torch.cuda.device_count())] or each
    if len(each) == 1:
        return each[0]
    user = getattr(os, "getuid", str)()  # Windows has no uid, and a temporary folder for each user
    # Every device has one lock per round: the processes beyond the number of devices share them evenly.
    turn = 0
    while True:
        for device in each:
            name = hashlib.sha256(f"{device} {turn}".encode()).hexdigest()[:16]
            try:
                _device_locks.append(Lock(Path(tempfile.gettempdir(), f"wsivit-{user}-device-{name}")))
            except StoreLockedError:
                continue
            return device
        turn += 1


@dataclass(frozen=True)
class HeatmapTask(Task):
    """Draw the predictions of each slide."""

    verb = "heatmap"
    formats: tuple[Format, ...] = DEFAULT_FORMATS
    options: HeatmapOptions = HeatmapOptions()

    def parameters(self, slide: SlideRow) -> dict[str, Any]:
        """See `Task`."""
        return {"formats": list(self.formats), **asdict(self.options)}

    def signature(self, slide: SlideRow, layout: CohortLayout) -> str:
        """See `Task`."""
        location = layout.store(slide)
        runs = [self.run] if self.run else files_at(location).list("predictions")
        signatures = [document_signature(location, f"predictions/{run}") for run in runs if run != "zarr.json"]
        if self.run:  # a slide-level run, whose evidence may be named with its method
            signatures.append(document_signature(location, f"evidence/{self.run.partition('/')[0]}"))
        return "".join(signatures)

    def do(self, slide: SlideRow, layout: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        store = _open_store(slide, layout)
        drawn = heatmap(store, run=self.run or None, output=layout.heatmaps, formats=self.formats, options=self.options)
        outputs = tuple(layout.relative(str(path)) for path in drawn.paths)
        return JobOutcome(
            tiles=len(store), bytes=sum(layout.files.size(path) or 0 for path in outputs), outputs=outputs
        )


@dataclass(frozen=True)
class VerifyTask(Task):
    """Check each store."""

    verb = "verify"
    sample: int = 32

    def parameters(self, slide: SlideRow) -> dict[str, Any]:
        """See `Task`."""
        return {"sample": self.sample}

    def do(self, slide: SlideRow, layout: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        location = layout.store(slide)
        if not TileStore.is_store(location):
            raise Skipped("it has no tiles yet")
        problems = verify(location, sample=self.sample)
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            return JobOutcome("failed", problems[0] + more, StoreError.exit_code)
        return replace(describe_store(TileStore(location), layout), state="done", exit_code=0, outputs=())


def _open_store(slide: SlideRow, layout: CohortLayout) -> TileStore:
    """Open the tiles of a slide, if it has any."""
    location = layout.store(slide)
    try:
        store = TileStore(location)
    except StoreError as error:
        raise Skipped(
            str(error) if TileStore.is_store(location) else "it has no tiles: run wsivit tile first"
        ) from None
    if len(store) == 0:
        raise Skipped("no tile of it has enough tissue")
    return store


def describe_store(store: TileStore, layout: CohortLayout, first_failure: str = "") -> JobOutcome:
    """Summarize a store of tiles: ``partial`` where some are unreadable, with the reason for the first of them."""
    unreadable = int((store.status == Status.UNREADABLE).sum())
    scale = store.parameters.scale
    mpp = "{mpp_x:.4g} x {mpp_y:.4g}".format(**scale) if scale["mpp_x"] != scale["mpp_y"] else f"{scale['mpp_x']:.4g}"
    reason = f"{unreadable} tiles are unreadable{f': {first_failure}' if first_failure else ''}"
    return JobOutcome(
        "partial" if unreadable else "done",
        reason if unreadable else "",
        UnreadableTilesError.exit_code if unreadable else 0,
        tiles=len(store),
        unreadable=unreadable,
        bytes=sum(entry.bytes for entry in read_journal(store.files).values()),
        scale=f"{mpp} µm/px, " + ", ".join(dict.fromkeys([scale["source"], scale["confidence"]])),
        fingerprint=store.parameters.slide_fingerprint,
        outputs=(f"{layout.relative(store.url)}/zarr.json",),
        warning="; ".join(store_warnings(store)),
    )


# Has an input changed since it was processed? Size and time answer without reading pixels.


def signature(path: str) -> str:
    """Return a digest that changes when a file, or any file of a slide, is written again; empty for no path."""
    if not path:
        return ""
    if "://" in path:
        facts = Remote(path).facts()
        tag = next((str(facts[key]) for key in ("ETag", "etag", "mtime", "created") if facts.get(key)), "")
        return _digest(repr([("", int(facts.get("size") or 0), tag)]))
    stats = ((str(file), file.stat()) for file in slide_files(path))
    return _digest(repr(sorted((name, stat.st_size, str(stat.st_mtime_ns)) for name, stat in stats)))


def document_signature(location: str, node: str = "") -> str:
    """Return a digest that changes when a store, or a node of it, is written again; empty where there is none."""
    try:
        return _digest(files_at(location).read(document_key(node)).decode())
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
