"""``wsivit heatmap``, ``export`` and ``score-slides``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from wsivit import aggregate as _score_slides
from wsivit import export as _export
from wsivit import heatmap as _heatmap
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAT, MANY, OUTPUT, documented_by
from wsivit.cohort import CohortOptions
from wsivit.heatmap import DEFAULT_FORMS, Form, HeatmapOptions

FORMS = Parameter(name="--form", negative=(), consume_multiple=False)


@documented_by(_heatmap)
def heatmap(
    store: Annotated[list[str], MANY],
    *,
    run: str | None = None,
    png: str | None = None,
    output: Annotated[str | None, OUTPUT] = None,
    forms: Annotated[tuple[Form, ...], FORMS] = DEFAULT_FORMS,
    options: Annotated[HeatmapOptions, FLAT] = HeatmapOptions(),
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
) -> Report:
    if cohort := many_slides(store, output, many, quiet=True, png=png):
        return format_report(cohort.heatmap(run=run, forms=forms, options=options))
    made = _heatmap(store[0], run=run, png=png, output=output, forms=forms, options=options)
    return Report("\n".join([f"class    {made.class_name}", *(f"wrote    {path}" for path in made.paths)]))


@documented_by(_export)
def export(
    store: str,
    form: Form,
    *,
    output: Annotated[str | None, OUTPUT] = None,
    run: str | None = None,
    options: Annotated[HeatmapOptions, FLAT] = HeatmapOptions(),
) -> Report:
    return Report(f"wrote    {_export(store, form, output, run=run, options=options)}")


@documented_by(_score_slides)
def aggregate(
    stores: Annotated[list[str], MANY],
    *,
    output: Annotated[str, OUTPUT] = "slide_scores.csv",
    run: str | None = None,
    top_k: int = 10,
    thresholds: dict[str, float] | None = None,
    options: Annotated[HeatmapOptions, FLAT] = HeatmapOptions(),
) -> Report:
    made = _score_slides(stores, output, run=run, top_k=top_k, thresholds=thresholds, options=options)
    return Report(f"wrote    {made}")
