"""What options may be: types that carry a range, checked when the options are made.

A field of an options class is annotated with one of these types, and `__post_init__` calls `check_options`. Python and
the command line thereby refuse the same values with the same words, before any work is done.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from wsivit.errors import OptionError


@dataclass(frozen=True)
class Range:
    """A range of numbers, with its ends or without.

    Parameters
    ----------
    low, high : float
    above : bool
        Leave out `low` itself.
    below : bool
        Leave out `high` itself.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        # Written so that NaN, for which every comparison is false, is in no range.
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low, high = (f"{end:,.15g}" for end in (self.low, self.high))
        if not self.above:
            return f"from {low} to {'below ' * self.below}{high}"
        return f"above {low} and {'below' if self.below else 'at most'} {high}"


Count: TypeAlias = Annotated[int, Range(1, 1_000_000)]
CountOrZero: TypeAlias = Annotated[int, Range(0, 1_000_000)]
"""How many; 0 is allowed."""
BatchSize: TypeAlias = Annotated[int, Range(1, 65_536)]
Workers: TypeAlias = Annotated[int, Range(0, 1_024)]
Seed: TypeAlias = Annotated[int, Range(0, 2**32 - 1)]
TileSize: TypeAlias = Annotated[int, Range(1, 16_384)]
"""Pixels; libjpeg takes no picture of more than 65,535, and no tile of a quarter of it makes sense."""
Overlap: TypeAlias = Annotated[int, Range(0, 16_383)]
SampleSize: TypeAlias = Annotated[int, Range(512, 65_536)]
ImageSize: TypeAlias = Annotated[int, Range(8, 8_192)]
PixelLimit: TypeAlias = Annotated[int, Range(1, 2**63 - 1)]
Fraction: TypeAlias = Annotated[float, Range(0, 1)]
FractionBelowOne: TypeAlias = Annotated[float, Range(0, 1, below=True)]
PositiveFraction: TypeAlias = Annotated[float, Range(0, 1, above=True)]
Mpp: TypeAlias = Annotated[float, Range(0, 1_000, above=True)]
"""Microns per pixel."""
MAGNIFICATIONS = Range(0, 1_000, above=True)
NonNegative: TypeAlias = Annotated[float, Range(0, 1_000_000)]
Positive: TypeAlias = Annotated[float, Range(0, 1_000_000, above=True)]


def check_options(options: object) -> None:
    """Check each field of an options dataclass against its annotation.

    Raises
    ------
    OptionError
        For the first field of a wrong type, beyond its range, or that is none of its choices.
    """
    kinds: Any = type(options)
    for name, kind in _kinds(kinds).items():
        check_option(name, getattr(options, name), kind)


def check_option(name: str, value: object, kind: Any) -> None:
    """Check one option.

    Parameters
    ----------
    name : str
    value : object
    kind : type
        A type of this module, another type, or a union of these; of others than numbers, text, choices and tables of
        numbers nothing is checked.

    Raises
    ------
    OptionError
        If it is of a wrong type, beyond its range, or none of the choices.
    """
    # Others annotate unions as a whole: the command line, with the section of its help.
    if hasattr(kind, "__metadata__") and get_origin(kind.__origin__) in (Union, UnionType):
        kind = kind.__origin__
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    wanted = [text for k in kinds if (text := _unmet(value, k))]
    # A value is right where it is of one of the kinds.
    if len(wanted) == len(kinds):
        choices = " or ".join(text for text in wanted if text != "left out")
        raise OptionError(name, f"must be {choices}, not {value!r}")


@cache
def _kinds(options: type) -> dict[str, Any]:
    return get_type_hints(options, include_extras=True)


def _unmet(value: object, kind: Any) -> str:
    """Say what a value should be; empty where it is that."""
    limits = [extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Range)]
    kind = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
    if kind is NoneType:
        return "" if value is None else "left out"
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"one of {', '.join(map(str, get_args(kind)))}"
    if kind is bool:
        return "" if value is True or value is False else "true or false"
    if kind in (int, float):
        return _unmet_number(value, kind, limits)
    if kind is str:
        # An empty text is what an unset variable of a shell leaves, and never meant.
        return "" if isinstance(value, str | os.PathLike) and os.fspath(value) else "text that is not empty"
    if get_origin(kind) is tuple and get_args(kind) == (str, ...):
        texts = isinstance(value, tuple | list) and all(isinstance(item, str) and item for item in value)
        return "" if texts else "texts that are not empty"
    if get_origin(kind) in (Mapping, dict):
        if not isinstance(value, Mapping):
            return "a table of values"
        wrong = [text for item in value.values() if (text := _unmet(item, get_args(kind)[1]))]
        return f"a table of values, each {wrong[0]}" if wrong else ""
    return ""


def _unmet_number(value: object, kind: type, limits: list[Range]) -> str:
    what = "a whole number" if kind is int else "a number"
    # numpy's numbers are taken; True is none.
    try:
        number = operator.index(value) if kind is int else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool | str):
        return f"{what} {limits[0]}" if limits else what
    if limits:
        return "" if number in limits[0] else str(limits[0])
    return "" if math.isfinite(number) else what
