"""``wsivit index``, ``status`` and ``verify``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from wsivit import index as _index
from wsivit import relink as _relink
from wsivit import status as _status
from wsivit import verify as _verify
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAT, MANY, CommonOptions, documented_by
from wsivit.cohort import CohortLayout, CohortOptions, summary
from wsivit.errors import SlideNotFoundError, StoreError, UsageError, WsivitError
from wsivit.ranges import CountOrZero, FractionBelowOne, Seed
from wsivit.slide_list import find_stores, is_one, locations


@documented_by(_verify)
def verify(
    store: Annotated[list[str], MANY],
    *,
    output: str | None = None,
    slide: str | None = None,
    sample: CountOrZero = 32,
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    is_cohort = len(store) == 1 and CohortLayout(store[0]).exists
    if output is None and many == CohortOptions() and not is_cohort:
        return _without_ledger([*dict.fromkeys(_stores(store))], slide, sample)
    if cohort := many_slides(store, output, many, progress=common.progress, slide=slide):
        return format_report(cohort.verify(sample=sample))
    return _without_ledger(store, slide, sample)


def _stores(sources: Sequence[str]) -> Iterator[str]:
    """Yield what is named, and the stores in folders and tables, whose slides have nothing to verify."""
    for source in sources:
        yield from [source] if is_one(source) else locations(find_stores(source))


def _without_ledger(stores: Sequence[str], slide: str | None, sample: int) -> Report:
    if not stores:
        raise UsageError("there is no tile store among these")
    if len(stores) == 1:
        problems = _verify(stores[0], slide=slide, sample=sample)
        return _report(stores[0], problems, "\n".join([f"{len(problems)} wrong", *problems]))
    if slide is not None:
        raise UsageError("--slide is for one store; verify each with its own")
    reports = []
    for store in stores:
        try:
            problems = _verify(store, sample=sample)
            reports.append(_report(store, problems, f"{len(problems)} wrong: {' '.join(problems[:1])}"))
        except WsivitError as error:
            reports.append(Report(str(error), error.exit_code))
    return Report("\n".join(report.text for report in reports), max(report.exit_code for report in reports))


def _report(store: str, problems: Sequence[str], summary: str) -> Report:
    return Report(f"{store}: {summary if problems else 'sound'}", StoreError.exit_code if problems else 0)


@documented_by(_relink)
def relink(stores: Annotated[list[str], MANY], root: str, /) -> Report:
    results = _relink(stores, root)
    lines = [f"{result.store}: {result.slide or f'SLIDE NOT FOUND, still at {result.before}'}" for result in results]
    missing = sum(not result.slide for result in results)
    lines.append(f"{len(results) - missing} of {len(results)} stores have their slide")
    return Report("\n".join(lines), SlideNotFoundError.exit_code if missing else 0)


@documented_by(_index)
def index(
    stores: Annotated[list[str], MANY],
    *,
    output: str = "index.parquet",
    label: str | None = None,
    holdout: FractionBelowOne = 0.0,
    seed: Seed = 0,
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    result = _index(stores, output, label=label, holdout=holdout, seed=seed, progress=common.progress)
    lines = [f"{result.tiles} tiles of {result.stores} stores"]
    for name, counts in (("label", result.labels), ("split", result.splits)):
        if counts:
            lines.append(f"{name}    {', '.join(f'{value} {n}' for value, n in sorted(counts.items()))}")
    return Report("\n".join([*lines, f"wrote    {result.path}"]))


@documented_by(_status)
def status(cohort: str) -> Report:
    by_verb = _status(cohort)
    lines = [line for verb, records in by_verb.items() for line in [verb, *(f"  {row}" for row in summary(records))]]
    return Report("\n".join(lines or ["no verb was run yet"]))
