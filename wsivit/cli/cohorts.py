"""What the verbs do when they are given many slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsivit.cli.app import Report
from wsivit.cohort import CohortOptions
from wsivit.errors import UsageError
from wsivit.slide_list import is_one_file

if TYPE_CHECKING:
    from wsivit.cohort import Cohort, CohortResult


def many_slides(
    sources: Sequence[str], output: str | None, options: CohortOptions, *, quiet: bool = False, **alone: object
) -> Cohort | None:
    """Return the slides as a cohort; None where one is meant, to be done without a ledger.

    Raises
    ------
    UsageError
        For many slides, with an option in `alone` that makes sense for one only.
    """
    if len(sources) == 1 and options == CohortOptions() and is_one_file(sources[0]):
        return None
    if wrong := [name for name, value in alone.items() if value is not None]:
        raise UsageError(f"--{wrong[0]} is for one slide; for many, {_INSTEAD[wrong[0]]}")
    from wsivit.cohort import Cohort  # a single slide does not need the cohort's modules: they are half of the library

    return Cohort(sources, None if output == "." else output, options, progress=not quiet)


_INSTEAD = {
    "annotations": "give a table (.csv) with a column annotations",
    "png": "see the pictures in heatmaps/ of the output",
    "slide": "verify each with its own",
}


def format_report(result: CohortResult) -> Report:
    """Say what came of many slides."""
    return Report(result.report(), result.exit_code)
