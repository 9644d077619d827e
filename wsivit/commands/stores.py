"""``wsivit verify``."""

from __future__ import annotations

from typing import Annotated

from wsivit import verify as _verify
from wsivit.cli import Report
from wsivit.cohort import CohortOptions
from wsivit.commands.cohorts import many_slides, told
from wsivit.commands.shared import FLAT, MANY, OUTPUT, documented_by
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
