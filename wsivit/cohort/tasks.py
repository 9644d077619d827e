"""What a verb does with one slide of many, and what that depends on."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.devices import claim_device
from wsivit.cohort.inputs import document_signature, signature
from wsivit.cohort.job_log import State
from wsivit.errors import OutputError, RemoteError, StoreError, UnreadableTilesError, WsivitError
from wsivit.heatmap import DEFAULT_FORMATS, Format, HeatmapOptions, heatmap
from wsivit.inference import PredictOptions, Predictor
from wsivit.io import files_at
from wsivit.models import CONTRACT
from wsivit.slide import Slide, open_slide
from wsivit.slide_list import CohortSlide
from wsivit.store import Status, TileStore, read_journal, verify
from wsivit.tiling import OnUnreadableTile, TileOptions, Tiler


class Skipped(Exception):
    """There is nothing to be done with this slide, which is no failure; the text says why."""


@dataclass(frozen=True)
class JobOutcome:
    """What came of a slide; as in `wsivit.cohort.job_log.Record`."""

    state: State = "done"
    reason: str = ""
    exit_code: int = 0
    retryable: bool = False
    tiles: int = 0
    unreadable: int = 0
    bytes: int = 0
    scale: str = ""
    fingerprint: str = ""
    outputs: tuple[str, ...] = ()


class Task(Protocol):
    """A verb with its options, applied to any slide; it is sent to workers."""

    @property
    def verb(self) -> str:
        """Its name."""

    @property
    def run(self) -> str:
        """Name of the model's run; empty for verbs without."""

    def parameters(self, slide: CohortSlide) -> dict[str, Any]:
        """Everything but the input that determines what comes out, ready for JSON."""

    def signature(self, slide: CohortSlide, tree: CohortLayout) -> str:
        """What changes when the input does."""

    def fingerprint(self, slide: CohortSlide) -> str:
        """The input's content, where its signature may change without it; else empty."""

    def do(self, slide: CohortSlide, tree: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """Do it; `anew`: in place of what was made of other input or with other parameters."""


@dataclass(frozen=True)
class TileTask:
    """Tile each slide, each with so many `threads`; None for as many as there are CPUs."""

    options: TileOptions = TileOptions()
    open_options: tuple[tuple[str, Any], ...] = ()
    on_unreadable_tile: OnUnreadableTile = "skip"
    threads: int | None = None
    verb: str = "tile"
    run: str = ""

    def parameters(self, slide: CohortSlide) -> dict[str, Any]:
        """See `Task`."""
        tissue = self.options.tissue
        return {
            **asdict(self.options),
            "tissue_file": signature(tissue) if Path(tissue).suffix else "",
            "annotations": signature(slide.annotations),
            **self._opening(slide),
            "on_unreadable_tile": self.on_unreadable_tile,
        }

    def signature(self, slide: CohortSlide, tree: CohortLayout) -> str:
        """See `Task`."""
        return signature(slide.path)

    def fingerprint(self, slide: CohortSlide) -> str:
        """See `Task`."""
        with self.open(slide) as opened:
            return opened.fingerprint

    def do(self, slide: CohortSlide, tree: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        with self.open(slide) as opened:
            done = self.tiler(slide, rebuild=rebuild).tile(opened, tree.place(slide))
        return tiled(done.store, tree, next(iter(done.failures.values()), ""))

    def open(self, slide: CohortSlide) -> Slide:
        """Open a slide."""
        if not slide.path:
            raise Skipped("only its store is known, there is no slide to tile")
        how = self._opening(slide)
        opened = open_slide(slide.path, mpp=how.pop("slide_mpp"), **how)
        opened.threads = self.threads or opened.threads
        return opened

    def tiler(self, slide: CohortSlide, *, rebuild: bool) -> Tiler:
        """Return what tiles it."""
        return Tiler(self.options, slide.annotations or None, self.on_unreadable_tile, rebuild)

    def _opening(self, slide: CohortSlide) -> dict[str, Any]:
        how = {"slide_mpp": None, **dict(self.open_options)}
        return how if slide.mpp is None else {**how, "slide_mpp": slide.mpp}


def tiled(store: TileStore, tree: CohortLayout, why: str = "") -> JobOutcome:
    """Sum up a store of tiles."""
    unreadable = int((store.status == Status.UNREADABLE).sum())
    scale = store.parameters.scale
    mpp = "{mpp_x:.4g} x {mpp_y:.4g}".format(**scale) if scale["mpp_x"] != scale["mpp_y"] else f"{scale['mpp_x']:.4g}"
    whole = JobOutcome(
        tiles=len(store),
        bytes=sum(entry.bytes for entry in read_journal(store.files).values()),
        scale=f"{mpp} µm/px, {scale['source']}, {scale['confidence']}",
        fingerprint=store.parameters.slide_fingerprint,
        outputs=(_below(store.url, tree) + "/zarr.json",),
    )
    if not unreadable:
        return whole
    reason = f"{unreadable} tiles cannot be read{': ' + why if why else ''}"
    code = UnreadableTilesError.exit_code
    return replace(whole, state="partial", reason=reason, unreadable=unreadable, exit_code=code)


@dataclass(frozen=True)
class PredictTask:
    """Run a model over the tiles of each slide."""

    model: str
    run: str
    options: PredictOptions = PredictOptions()
    slides: TileTask = TileTask()
    verb: str = "predict"

    @classmethod
    def of(cls, model: str, name: str | None, options: PredictOptions, slides: TileTask) -> PredictTask:
        """Name the predictions like the model, unless they have a name."""
        return cls(model, Predictor(model, name=name, options=options).name, options, slides)

    def parameters(self, slide: CohortSlide) -> dict[str, Any]:
        """See `Task`."""
        how = {key: value for key, value in asdict(self.options).items() if key not in _MACHINE}
        folder = signature(posixpath.join(self.model, CONTRACT))
        return {"model": f"{self.model} {folder}".rstrip(), **how}

    def signature(self, slide: CohortSlide, tree: CohortLayout) -> str:
        """See `Task`."""
        return document_signature(tree.store(slide))

    def fingerprint(self, slide: CohortSlide) -> str:
        """See `Task`."""
        return ""

    def do(self, slide: CohortSlide, tree: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        options = replace(self.options, overwrite=self.options.overwrite or rebuild)
        predictor = _predictor(self.model, self.run, options)
        if TileStore.is_store(tree.store(slide)) or not slide.path:
            predicted = predictor(_finished(slide, tree))
        else:
            predicted = predictor(_finished(slide, tree, self._coordinates(slide, tree, predictor.tile_options)))
        node = f"{'features' if options.features else 'predictions'}/{self.run}"
        outputs = (f"{_below(predicted.url, tree)}/{node}/zarr.json",)
        return replace(tiled(predicted, tree), outputs=outputs)

    def _coordinates(self, slide: CohortSlide, tree: CohortLayout, options: TileOptions) -> TileStore:
        """Make a store of coordinates only, as the model wants them."""
        with self.slides.open(slide) as opened:
            return Tiler(options).tile(opened, tree.place(slide)).store


_MACHINE = ("device", "batch_size", "overwrite")
"""Options that do not change what comes out."""


@lru_cache(maxsize=1)
def _predictor(model: str, name: str, options: PredictOptions) -> Predictor:
    """Load a model once for all slides that this process is given, on the device that is its own."""
    return Predictor(model, name=name, options=replace(options, device=claim_device(options.device)))


@dataclass(frozen=True)
class HeatmapTask:
    """Draw the predictions of each slide."""

    run: str
    formats: tuple[Format, ...] = DEFAULT_FORMATS
    options: HeatmapOptions = HeatmapOptions()
    verb: str = "heatmap"

    def parameters(self, slide: CohortSlide) -> dict[str, Any]:
        """See `Task`."""
        return {"formats": list(self.formats), **asdict(self.options)}

    def signature(self, slide: CohortSlide, tree: CohortLayout) -> str:
        """See `Task`."""
        return "".join(document_signature(tree.store(slide), node) for node in self._nodes(slide, tree))

    def _nodes(self, slide: CohortSlide, tree: CohortLayout) -> Iterator[str]:
        names = [self.run] if self.run else files_at(tree.store(slide)).list("predictions")
        yield from (f"predictions/{name}" for name in names if name != "zarr.json")

    def fingerprint(self, slide: CohortSlide) -> str:
        """See `Task`."""
        return ""

    def do(self, slide: CohortSlide, tree: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        store = _finished(slide, tree)
        made = heatmap(store, run=self.run or None, output=tree.heatmaps, formats=self.formats, options=self.options)
        outputs = tuple(_below(str(path), tree) for path in made.paths)
        sizes = [tree.files.size(path) or 0 for path in outputs]
        return JobOutcome(tiles=len(store), bytes=sum(sizes), outputs=outputs)


@dataclass(frozen=True)
class VerifyTask:
    """Check each store."""

    sample: int = 32
    verb: str = "verify"
    run: str = ""

    def parameters(self, slide: CohortSlide) -> dict[str, Any]:
        """See `Task`."""
        return {"sample": self.sample}

    def signature(self, slide: CohortSlide, tree: CohortLayout) -> str:
        """See `Task`."""
        return document_signature(tree.store(slide))

    def fingerprint(self, slide: CohortSlide) -> str:
        """See `Task`."""
        return ""

    def do(self, slide: CohortSlide, tree: CohortLayout, *, rebuild: bool) -> JobOutcome:
        """See `Task`."""
        location = tree.store(slide)
        if not TileStore.is_store(location):
            raise Skipped("it has no tiles yet")
        problems = verify(location, sample=self.sample)
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            return JobOutcome("failed", problems[0] + more, StoreError.exit_code)
        return replace(tiled(TileStore(location), tree), state="done", exit_code=0, outputs=())


def _finished(slide: CohortSlide, tree: CohortLayout, made: TileStore | None = None) -> TileStore:
    """Open the tiles of a slide, if it has any."""
    try:
        store = TileStore(tree.store(slide)) if made is None else made
    except StoreError as error:
        if TileStore.is_store(tree.store(slide)):
            raise Skipped(str(error)) from None
        raise Skipped("it has no tiles: wsivit tile comes first") from None
    if len(store) == 0:
        raise Skipped("no tile of it has enough tissue")
    return store


def _below(location: str, tree: CohortLayout) -> str:
    """Return a location relative to the tree's root, or whole where it lies elsewhere."""
    return location.removeprefix(f"{tree.root}/")


def failure(error: WsivitError | OSError) -> JobOutcome:
    """Sum up what went wrong."""
    code = error.exit_code if isinstance(error, WsivitError) else OutputError.exit_code
    retryable = isinstance(error, OutputError | RemoteError) or not isinstance(error, WsivitError)
    return JobOutcome("failed", " ".join(str(error).split()), code, retryable)
