"""The report of a slide: its heatmap and areas, what was left out and why, its scale, and where it all came from."""

from __future__ import annotations

import tempfile
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from wsivit.heatmap import HeatmapOptions, export, read_heatmap_data, score_slide
from wsivit.report import charts
from wsivit.report.charts import number
from wsivit.report.names import Names
from wsivit.report.options import ReportOptions
from wsivit.report.page import Page, Picture, Section, Table, photo
from wsivit.store import Status, TileStore
from wsivit.tissue import tissue_fractions

_SIZE = 1400
_MOST_CELLS = 4_000_000


def slide_page(store: TileStore, options: ReportOptions, names: Names) -> Page:
    """Collect the report of a tile store.

    Raises
    ------
    UsageError
        The run or class that was asked for is not there.
    StoreError
        The store or its predictions are damaged.
    """
    name = names("slide", store.parameters.slide_id)
    if names.hidden:  # pictures write the slide's name too
        store = copy(store)
        store.parameters = replace(store.parameters, slide_id=name)
    sections = []
    if store.runs or options.run is not None:  # of a run that is not there, the error says which are
        verdict, results = _predictions(store, options, name)
        sections += results
    else:
        verdict = f"{len(store):,} tiles, without predictions so far (wsivit predict)."
        sections.append(Section("Tissue", pictures=[photo(store.thumbnail[0], f"The slide {name}")]))
    sections += [_funnel(store, options.run), _quality(store), _scale(store), _provenance(store, names)]
    return Page("slide", name, verdict, sections)


def _predictions(store: TileStore, options: ReportOptions, name: str) -> tuple[str, list[Section]]:
    data = read_heatmap_data(store, options.run)
    scores = score_slide(data, options.threshold)
    main = data.class_index(options.class_name)
    shown = scores[main]
    cells = data.scores.cell_areas(data.slide_mpp)
    mm2 = float(cells[np.isfinite(data.scores.scores[..., main])].sum())
    verdict = (
        f"{shown.area_fraction:.1%} of the predicted tissue ({shown.area_fraction * mm2:.2f} of {mm2:.2f} mm²) is "
        f"{shown.class_name} at a threshold of {options.threshold:g}; the largest focus has "
        f"{shown.largest_focus_mm2:.3f} mm². By run {data.run}, on {shown.n_tiles:,} tiles."
    )
    verdict += "".join(f" Caution: {warning}." for warning in data.training.warnings)
    rows = [
        [score.class_name, f"{score.area_fraction:.3f}", f"{score.area_fraction * mm2:.3f}",
         f"{score.largest_focus_mm2:.3f}", number(score.mean), number(score.top_k_mean)]
        for score in scores
    ]  # fmt: skip
    header = ("class", "share of area", "mm²", "largest focus, mm²", "mean", "mean of the highest 10")
    table = Table(header, rows, f"areas at {options.threshold:g}")
    values = data.probabilities[data.predicted, main]
    chart = charts.histogram(values, shown.class_name, options.threshold)
    pictures = [_drawn(store, options, "png", f"Probability of {shown.class_name} over the slide {name}"), chart]
    sections = [Section("Heatmap", tables=[table], pictures=pictures)]
    if (sheet := _contact_sheet(store, options, shown.class_name)) is not None:
        sections.append(Section("Highest and lowest tiles", pictures=[sheet]))
    return verdict, sections


def _drawn(store: TileStore, options: ReportOptions, form: str, alt: str) -> Picture:
    how = HeatmapOptions(size=_SIZE, threshold=options.threshold, class_name=options.class_name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{form}.png"
        export(store, form, path, run=options.run, options=how)  # type: ignore[arg-type]
        with Image.open(path) as image:
            return photo(image, alt, quality=78)


def _contact_sheet(store: TileStore, options: ReportOptions, class_name: str) -> Picture | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "contact.png"
        try:
            export(store, "contact", path, run=options.run, options=HeatmapOptions(class_name=options.class_name))
        except (OSError, ValueError, RuntimeError):
            return None  # a store of coordinates whose slide is gone has no pixels to show
        with Image.open(path) as image:
            image.thumbnail((1100, 1100))
            return photo(image, f"Tiles with the highest and lowest probability of {class_name}", quality=80)


def funnel(store: TileStore, run: str | None) -> list[tuple[str, int]]:
    """Count positions of the grid, then how many are left after each step of choosing tiles."""
    grid, parameters = store.grid, store.parameters
    counts = [("positions in the grid", len(grid))]
    if len(grid) <= _MOST_CELLS:
        mask, _ = store.tissue_mask
        shares = tissue_fractions(mask, grid.boxes0(*grid.cells()), parameters.slide_size)
        counts.append(("with any tissue", int((shares > 0).sum())))
        counts.append((f"with at least {parameters.min_tissue:g} tissue", int((shares >= parameters.min_tissue).sum())))
    counts.append(("in the store, after limits on pen, blur, folds, fat and the slide's edge", len(store)))
    counts.append(("readable", len(store.readable)))
    if store.runs:
        name = run or sorted(store.runs)[0]
        known = np.isfinite(store.predictions(name).probabilities).all(axis=1)
        counts.append((f"with a prediction of {name}", int(known.sum())))
    return counts


def _funnel(store: TileStore, run: str | None) -> Section:
    rows = [[text, f"{count:,}"] for text, count in funnel(store, run)]
    status = [[kind.name.lower(), f"{int((store.status == kind).sum()):,}"] for kind in Status]
    return Section("Which tiles", tables=[Table(("", "tiles"), rows, "what is left after each step"),
                                          Table(("status", "tiles"), status, "tiles of the store")])  # fmt: skip


def _quality(store: TileStore) -> Section:
    rows = []
    for name, values in {"tissue": store.tissue_fraction, **store.qc}.items():
        known = values[np.isfinite(values)]
        if len(known):
            low, middle, high = np.percentile(known, [5, 50, 95])
            rows.append([name, f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}", f"{(known > 0.5).mean():.1%}"])
    header = ("share of the tile", "5 %", "median", "95 %", "tiles above 0.5")
    return Section("Quality", tables=[Table(header, rows, "over the tiles of the store")])


def _scale(store: TileStore) -> Section:
    parameters, scale = store.parameters, store.parameters.scale
    x, y = parameters.slide_mpp
    text = [
        f"The slide has {x:.4g} x {y:.4g} µm/px, from {scale.get('source')} ({scale.get('confidence')}): "
        f"{scale.get('reason')}.",
        f"The tiles were asked for at {parameters.requested_mpp:g} and have {parameters.mpp[0]:.4g} x "
        f"{parameters.mpp[1]:.4g} µm/px.",
    ]
    rows = [
        [source.get("name"), number(source.get("mpp_x"), 4), number(source.get("mpp_y"), 4), source.get("note", "")]
        for source in scale.get("sources", [])
    ]
    warnings = list(map(str, scale.get("warnings", [])))
    table = Table(("source in the file", "x", "y", "note"), rows, "what the file states")
    return Section("Scale", text, warnings, [table])


def _provenance(store: TileStore, names: Names) -> Section:
    parameters = store.parameters
    rows: list[list[object]] = [
        ["slide fingerprint", parameters.slide_fingerprint],
        ["size, level-0 pixels", "{:,} x {:,}".format(*parameters.slide_size)],
        ["tiles", f"{parameters.grid.tile_size} px, overlap {parameters.grid.overlap} px"],
        ["pixels", f"{parameters.codec}, {parameters.encoding}"],
        ["tissue", parameters.tissue.get("method", "")],
        ["labels", ", ".join(store.labels) or "–"],
        ["predictions", ", ".join(sorted(store.runs)) or "–"],
    ]
    rows += [[name, version] for name, version in store.versions.items()]
    return Section("Provenance", tables=[Table(("", ""), rows, "what the store records")],
                   commands=[] if names.hidden else [f"wsivit verify {store.url}"])  # fmt: skip
