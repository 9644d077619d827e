"""The options of a report."""

from __future__ import annotations

from dataclasses import dataclass

from wsivit.ranges import Fraction, check_options


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows.

    Parameters
    ----------
    run : str, optional
        Predictions to show of a store or study. Default: the only run there is.
    class_name : str, optional
        Class to show. Default: the main one, which is not called "normal" or the like.
    threshold : float
        Probability from which areas count, 0 to 1.
    label : str, optional
        Column of a study's table to compare with site and scanner.
    pseudonyms : bool
        Replace the names of slides and patients by numbers.
    """

    run: str | None = None
    class_name: str | None = None
    threshold: Fraction = 0.5
    label: str | None = None
    pseudonyms: bool = False

    def __post_init__(self) -> None:
        check_options(self)
