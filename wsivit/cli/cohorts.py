"""What the verbs do when they are given many slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wsivit.cli.app import Report
from wsivit.cohort import CohortOptions
from wsivit.errors import UsageError
from wsivit.slide_list import is_one

if TYPE_CHECKING:
    from wsivit.cohort import Cohort, CohortResult


def many_slides(
    sources: Sequence[str], output: str | None, options: CohortOptions, *, progress: bool, **alone: object
) -> Cohort | None:
    """Return the slides as a cohort; None for a single slide, which needs no ledger.

    Raises
    ------
    UsageError
        For many slides, with an option in `alone` that is for a single one.
    """
    if len(sources) == 1 and replace(options, force=False) == CohortOptions() and is_one(sources[0]):
        return None
    if given := [name for name, value in alone.items() if value is not None]:
        raise UsageError(f"--{given[0]} is for one slide; for many, {_INSTEAD[given[0]]}")
    from wsivit.cohort import Cohort  # a single slide does not need the cohort's modules: they are half of the library

    return Cohort(sources, None if output == "." else output, options, progress=progress)


_INSTEAD = {
    "annotations": "give a table (.csv) with a column annotations",
    "png": "see the pictures in heatmaps/ of the output",
    "slide": "verify each with its own",
}


def format_report(result: CohortResult) -> Report:
    """Report the result of many slides."""
    return Report(result.report(), result.exit_code)
