"""``wsivit heatmap``, ``export``, ``aggregate`` and ``report``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from wsivit import aggregate as _aggregate
from wsivit import export as _export
from wsivit import heatmap as _heatmap
from wsivit import report as _report
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAT, MANY, CommonOptions, documented_by
from wsivit.cohort import CohortOptions
from wsivit.heatmap import DEFAULT_FORMATS, AggregateOptions, Format, HeatmapOptions
from wsivit.report import ReportOptions

FORMATS = Parameter(name="--format", negative=(), consume_multiple=False)


@documented_by(_heatmap)
def heatmap(
    store: Annotated[list[str], MANY],
    *,
    run: str | None = None,
    png: str | None = None,
    output: str | None = None,
    formats: Annotated[tuple[Format, ...], FORMATS] = DEFAULT_FORMATS,
    options: Annotated[HeatmapOptions, FLAT] = HeatmapOptions(),
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    if cohort := many_slides(store, output, many, progress=common.progress, png=png):
        return format_report(cohort.heatmap(run=run, formats=formats, options=options))
    outputs = _heatmap(store[0], run=run, png=png, output=output, formats=formats, options=options)
    return Report("\n".join([f"class    {outputs.class_name}", *(f"wrote    {path}" for path in outputs.paths)]))


@documented_by(_export)
def export(
    store: str,
    format: Format,
    *,
    output: str | None = None,
    run: str | None = None,
    options: Annotated[HeatmapOptions, FLAT] = HeatmapOptions(),
) -> Report:
    written = _export(store, format, output, run=run, options=options)
    each = written if isinstance(written, tuple) else (written,)
    return Report("\n".join(f"wrote    {path}" for path in each))


@documented_by(_aggregate)
def aggregate(
    stores: Annotated[list[str], MANY],
    *,
    output: str = "slide_scores.csv",
    run: str | None = None,
    options: Annotated[AggregateOptions, FLAT] = AggregateOptions(),
) -> Report:
    return Report(f"wrote    {_aggregate(stores, output, run=run, options=options)}")


@documented_by(_report)
def report(
    source: Annotated[list[str], MANY],
    output: str | None = None,
    options: Annotated[ReportOptions, FLAT] = ReportOptions(),
) -> Report:
    return Report("\n".join(f"wrote    {path}" for path in _report(source, output, options)))
