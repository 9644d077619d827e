"""The verbs as commands: the library's functions, with their docstrings, and the few words that only a shell needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from wsivit import demo as _demo
from wsivit import evaluate as _evaluate
from wsivit import export as _export
from wsivit import heatmap as _heatmap
from wsivit import info as _info
from wsivit import predict as _predict
from wsivit import score_slides as _score_slides
from wsivit import tile as _tile
from wsivit import train as _train
from wsivit import verify as _verify
from wsivit.cli import Report
from wsivit.demo import Demo
from wsivit.errors import StoreError, UnreadableTilesError, UsageError
from wsivit.evaluate import EvaluateOptions
from wsivit.export.options import Form, HeatmapOptions
from wsivit.heatmap import DEFAULT_FORMS
from wsivit.predict import PredictOptions
from wsivit.recipe import TrainOptions
from wsivit.slide import JpegColor, Reader, Slide, SlideInfo, open_slide
from wsivit.store import Status, TileStore
from wsivit.tiling import TileOptions, Tiling

Command = TypeVar("Command", bound=Callable[..., Report])
Flat = Parameter(name="*")
Flag = Parameter(negative=())
Forms = Parameter(name="--form", negative=(), consume_multiple=False)
Output = Parameter(alias="-o")
Json = Parameter(name="--json", negative=(), help="Print JSON.")
Mag = Parameter(help="Magnification instead of --mpp: 10 / MAG microns per pixel, so 20 is 0.5.")
Quiet = Parameter(alias="-q", negative=(), help="No progress bar.")
MICRONS_AT_1X = 10.0


@dataclass(frozen=True)
class Opening:
    """How a slide is opened.

    Parameters
    ----------
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file does not say or is wrong.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}
        Which reader opens it; auto takes the fastest that reads it rightly.
    jpeg_color : {"auto", "rgb", "ycbcr"}
        What the slide's JPEG tiles hold, where it is labelled wrongly.
    """

    slide_mpp: float | None = None
    reader: Reader = "auto"
    jpeg_color: JpegColor = "auto"

    def open(self, path: str) -> Slide:
        """Open a slide in this way."""
        return open_slide(path, reader=self.reader, mpp=self.slide_mpp, jpeg_color=self.jpeg_color)


def documented_by(function: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the docstring of the library function that it calls."""

    def decorate(command: Command) -> Command:
        command.__doc__ = function.__doc__
        return command

    return decorate


@documented_by(_info)
def info(
    slide: str,
    *,
    opening: Annotated[Opening, Flat] = Opening(),
    private: Annotated[bool, Flag] = False,
    as_json: Annotated[bool, Json] = False,
) -> Report:
    found = _info(slide, **asdict(opening), private=private)
    return Report(json.dumps(asdict(found), indent=2) if as_json else _describe(found))


@documented_by(_tile)
def tile(
    slide: str,
    *,
    output: Annotated[str, Output] = ".",
    options: Annotated[TileOptions, Flat] = TileOptions(),  # noqa: B008
    mag: Annotated[float | None, Mag] = None,
    opening: Annotated[Opening, Flat] = Opening(),
    annotations: str | None = None,
    on_bad_tile: Literal["skip", "fail"] = "skip",
    overwrite: Annotated[bool, Flag] = False,
    quiet: Annotated[bool, Quiet] = False,
) -> Report:
    done = _tile(
        opening.open(slide),
        output,
        _at_magnification(options, mag),
        annotations=annotations,
        on_bad_tile=on_bad_tile,
        overwrite=overwrite,
        progress=not quiet,
    )
    unreadable = (done.store.status == Status.UNREADABLE).any()
    return Report(_tell_tiling(done), UnreadableTilesError.exit_code if unreadable else 0)


@documented_by(_train)
def train(
    data: list[str],
    *,
    model: str,
    output: Annotated[str, Output],
    label: str | None = None,
    options: Annotated[TrainOptions, Flat] = TrainOptions(),  # noqa: B008
    quiet: Annotated[bool, Quiet] = False,
) -> Report:
    done = _train(data, model=model, output=output, label=label, options=options, progress=not quiet)
    return Report(f"held out {_tell_figures(done.validation)}\nrun      {done.folder}")


@documented_by(_evaluate)
def evaluate(
    run: str,
    data: list[str],
    *,
    output: Annotated[str | None, Output] = None,
    options: Annotated[EvaluateOptions, Flat] = EvaluateOptions(),  # noqa: B008
    quiet: Annotated[bool, Quiet] = False,
) -> Report:
    done = _evaluate(run, data, output=output, options=options, progress=not quiet)
    lines = [f"{done.n} tiles of {done.patients} patients or slides", f"measured {_tell_figures(done.figures)}"]
    lines += [f"  {name}: 95 % interval {low:.3f} to {high:.3f}" for name, (low, high) in done.intervals.items()]
    return Report("\n".join([*lines, f"wrote    {done.folder}"]))


@documented_by(_predict)
def predict(
    run: str,
    source: str,
    *,
    output: Annotated[str | None, Output] = None,
    name: str | None = None,
    options: Annotated[PredictOptions, Flat] = PredictOptions(),  # noqa: B008
    opening: Annotated[Opening, Flat] = Opening(),
    quiet: Annotated[bool, Quiet] = False,
) -> Report:
    slide = source if TileStore.is_store(source) else opening.open(source)
    store = _predict(run, slide, output=output, name=name, options=options, progress=not quiet)
    predicted = name or Path(run).resolve().name
    return Report(f"{len(store)} tiles predicted as {predicted}\nstore    {store.path}")


@documented_by(_heatmap)
def heatmap(
    store: str,
    *,
    run: str | None = None,
    png: str | None = None,
    output: Annotated[str | None, Output] = None,
    forms: Annotated[tuple[Form, ...], Forms] = DEFAULT_FORMS,
    options: Annotated[HeatmapOptions, Flat] = HeatmapOptions(),  # noqa: B008
) -> Report:
    made = _heatmap(store, run=run, png=png, output=output, forms=forms, options=options)
    return Report("\n".join([f"class    {made.class_name}", *(f"wrote    {path}" for path in made.paths)]))


@documented_by(_export)
def export(
    store: str,
    form: Form,
    *,
    output: Annotated[str | None, Output] = None,
    run: str | None = None,
    options: Annotated[HeatmapOptions, Flat] = HeatmapOptions(),  # noqa: B008
) -> Report:
    return Report(f"wrote    {_export(store, form, output, run=run, options=options)}")


@documented_by(_score_slides)
def score_slides(
    stores: list[str],
    *,
    output: Annotated[str, Output] = "slide_scores.csv",
    run: str | None = None,
    top_k: int = 10,
    options: Annotated[HeatmapOptions, Flat] = HeatmapOptions(),  # noqa: B008
) -> Report:
    return Report(f"wrote    {_score_slides(stores, output, run=run, top_k=top_k, options=options)}")


@documented_by(_verify)
def verify(store: str, *, slide: str | None = None, sample: int = 32) -> Report:
    problems = _verify(store, slide=slide, sample=sample)
    if problems:
        return Report("\n".join([f"{store}: {len(problems)} wrong", *problems]), StoreError.exit_code)
    return Report(f"{store}: sound")


@documented_by(_demo)
def demo(
    *,
    output: Annotated[str, Output] = "wsivit-demo",
    slide: str | None = None,
    slide_mpp: float | None = None,
    size: int = 8192,
    quiet: Annotated[bool, Quiet] = False,
) -> Report:
    return Report(_tell_demo(_demo(output, slide=slide, slide_mpp=slide_mpp, size=size, progress=not quiet)))


def _at_magnification(options: TileOptions, mag: float | None) -> TileOptions:
    if mag is None:
        return options
    if options.mpp != TileOptions.mpp:
        raise UsageError("give --mpp or --mag, not both")
    if mag <= 0:
        raise UsageError(f"--mag must be above 0, not {mag}")
    return replace(options, mpp=MICRONS_AT_1X / mag)


def _describe(found: SlideInfo) -> str:
    width, height = found.dimensions
    levels = ", ".join(f"{level.width} x {level.height} (1/{level.downsample_x:.4g})" for level in found.levels)
    lines = [
        found.path,
        f"format       {found.format}, read by {found.reader}: {found.reader_reason}",
        f"size         {width} x {height} px",
        f"levels       {levels}",
        f"tiles        {_pair(found.tile_size)} px, {found.compression or 'compression unknown'}",
        f"objective    {f'{found.objective:g}x' if found.objective else 'not said'}",
        f"scale        {_describe_scale(found)}",
    ]
    lines += [f"  {source.name}: {_pair((source.mpp_x, source.mpp_y))} {source.note}" for source in found.scale_sources]
    lines += [f"warning      {warning}" for warning in found.warnings]
    lines += [f"private      {name}" + (f" = {value}" if value else "") for name, value in found.private.items()]
    return "\n".join(line.rstrip() for line in lines)


def _describe_scale(found: SlideInfo) -> str:
    if found.scale is None:
        return f"unknown: {found.scale_error}"
    scale = found.scale
    size = f"{_pair((scale.mpp_x, scale.mpp_y))} µm/px"
    return "; ".join([f"{size} from {scale.source} ({scale.confidence}: {scale.reason})", *scale.warnings])


def _pair(pair: tuple[float | None, float | None] | None) -> str:
    if pair is None or None in pair:
        return "-"
    x, y = pair
    return f"{x:.4g}" if x == y else f"{x:.4g} x {y:.4g}"


def _tell_tiling(done: Tiling) -> str:
    store, parameters = done.store, done.store.parameters
    count = Counter(store.status.tolist())
    lines = [
        f"{len(store)} tiles of {parameters.grid.tile_size} px at {_pair(parameters.mpp)} µm/px: {_how(store)}",
        f"store    {store.path}",
        f"preview  {done.preview}",
    ]
    if len(store) == 0:
        lines.insert(1, "no tile has enough tissue: look at the preview; --min-tissue 0 or --tissue none keeps more")
    if count[Status.PADDED]:
        lines.insert(1, f"{count[Status.PADDED]} of them reach past the slide and are padded")
    if count[Status.UNREADABLE]:
        lines.insert(1, f"{count[Status.UNREADABLE]} of them cannot be read and are marked so")
    lines += [_tell_label(store, name) for name in store.labels]
    lines += [
        f"tile {index} (col {store.col[index]}, row {store.row[index]}): {why}" for index, why in done.failures.items()
    ]
    return "\n".join(lines)


def _how(store: TileStore) -> str:
    parameters, plan = store.parameters, store.parameters.plan
    if not store.has_pixels:
        return "coordinates only, pixels stay in the slide"
    if parameters.encoding == "copied":
        return "the slide's own JPEG tiles, copied"
    steps = [f"level {plan['level']}"]
    if plan["reduce"] > 1:
        steps.append(f"decoded at 1/{plan['reduce']}")
    if (plan["residual_x"], plan["residual_y"]) != (1.0, 1.0):
        steps.append(f"resampled by {_pair((plan['residual_x'], plan['residual_y']))}")
    return ", ".join([*steps, "lossless" if parameters.codec == "zstd" else f"JPEG quality {parameters.quality}"])


def _tell_figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _tell_label(store: TileStore, name: str) -> str:
    column = store.label(name)
    tiles = Counter(column.codes.tolist())
    counts = ", ".join(f"{title} {tiles[code]}" for code, title in enumerate(column.classes))
    return f"label    {name}: {counts}, none {tiles[-1]}"


def _tell_demo(done: Demo) -> str:
    lines = [f"$ {step.command}\n    " + "\n    ".join(map(str, step.made)) for step in done.steps]
    if done.accuracy is not None:
        lines.append(
            f"On {done.tiles} tiles of the test slide that lie in a known region: "
            f"accuracy {done.accuracy:.3f}, AUROC {done.auroc:.3f}."
        )
    return "\n".join(lines)
