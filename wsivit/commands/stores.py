"""``wsivit verify`` and ``index``."""

from __future__ import annotations

from typing import Annotated

from wsivit import index as _index
from wsivit import verify as _verify
from wsivit.cli import Report
from wsivit.cohort import CohortOptions
from wsivit.commands.cohorts import many_slides, told
from wsivit.commands.shared import FLAT, MANY, OUTPUT, QUIET, documented_by
from wsivit.errors import StoreError


@documented_by(_verify)
def verify(
    store: Annotated[list[str], MANY],
    *,
    output: Annotated[str | None, OUTPUT] = None,
    slide: str | None = None,
    sample: int = 32,
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
) -> Report:
    if cohort := many_slides(store, output, many, quiet=True, slide=slide):
        return told(cohort.verify(sample=sample))
    problems = _verify(store[0], slide=slide, sample=sample)
    if problems:
        return Report("\n".join([f"{store[0]}: {len(problems)} wrong", *problems]), StoreError.exit_code)
    return Report(f"{store[0]}: sound")


@documented_by(_index)
def index(
    stores: Annotated[list[str], MANY],
    *,
    output: Annotated[str, OUTPUT] = "index.parquet",
    label: str | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    quiet: Annotated[bool, QUIET] = False,
) -> Report:
    done = _index(stores, output, label=label, holdout=holdout, seed=seed, progress=not quiet)
    lines = [f"{done.tiles} tiles of {done.stores} stores"]
    for name, counts in (("label", done.labels), ("split", done.splits)):
        if counts:
            lines.append(f"{name}    {', '.join(f'{value} {n}' for value, n in sorted(counts.items()))}")
    return Report("\n".join([*lines, f"wrote    {done.path}"]))
