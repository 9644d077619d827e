"""Ranges of options: what is taken, what is refused, and with which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsivit
from wsivit.errors import OptionError
from wsivit.ranges import Count, Fraction, Mpp, Range, check_option, check_options

OPTIONS = sorted(name for name in wsivit.__all__ if name.endswith("Options"))


@given(st.floats(), st.floats(allow_nan=False), st.floats(allow_nan=False), st.booleans(), st.booleans())
def test_a_range_holds_what_lies_between_its_ends(
    value: float, low: float, high: float, above: bool, below: bool
) -> None:
    inside = low < value < high or (value == low and not above and (value < high or (value == high and not below)))
    inside = inside or (value == high and not below and (value > low or (value == low and not above)))
    assert (value in Range(low, high, above, below)) == inside


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (3, Count, ""),
        (np.int64(3), Count, ""),
        (3.0, Count, "must be a whole number from 1 to 1,000,000, not 3.0"),
        (True, Count, "must be a whole number"),
        ("3", Count, "must be a whole number"),
        (0, Count, "must be from 1 to 1,000,000, not 0"),
        (10**400, Count, "must be from 1"),
        (1, Mpp, ""),
        (np.float32(0.5), Mpp, ""),
        (0.0, Mpp, "must be above 0 and at most 1,000, not 0.0"),
        (math.nan, Mpp, "not nan"),
        (math.inf, Mpp, "not inf"),
        (10**400, Mpp, "must be a number above 0"),
        (None, Mpp | None, ""),
        (-1, Mpp | None, "must be above 0"),
        ("", str, "must be text that is not empty"),
        ({"tumor": 0.5}, Mapping[str, Fraction] | None, ""),
        ({"tumor": 5}, Mapping[str, Fraction] | None, "each from 0 to 1"),
    ],
)
def test_the_words_say_what_an_option_may_be(value: object, kind: Any, problem: str) -> None:
    if not problem:
        check_option("x", value, kind)
        return
    with pytest.raises(OptionError, match=problem) as error:
        check_option("x", value, kind)
    assert str(error.value).startswith("x must be ")
    assert error.value.exit_code == 2


def test_every_number_among_the_options_has_a_range_and_its_default_lies_in_it() -> None:
    for name in OPTIONS:
        options = getattr(wsivit, name)
        hints = get_type_hints(options, include_extras=True)
        for field in fields(options):
            kinds = getattr(hints[field.name], "__args__", None) or (hints[field.name],)
            kinds = (hints[field.name],) if hasattr(hints[field.name], "__metadata__") else kinds
            plain = [kind for kind in kinds if kind in (int, float)]
            assert not plain, f"{name}.{field.name} has no range"
            assert field.default is not MISSING or field.default_factory is not MISSING
        check_options(options())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", [-1, 10**30, math.nan, ""])
def test_every_options_class_checks_its_fields(name: str, value: object) -> None:
    options = getattr(wsivit, name)
    assert is_dataclass(options)
    for field in fields(options):
        with pytest.raises(OptionError, match=f"^{field.name} must be "):
            options(**{field.name: value})


def test_an_options_class_of_ones_own_is_checked_with_its_parents_fields() -> None:
    @dataclass(frozen=True)
    class Mine(wsivit.TileOptions):
        turns: Count = 1

        def __post_init__(self) -> None:
            check_options(self)

    with pytest.raises(OptionError, match="turns must be"):
        Mine(turns=0)
    with pytest.raises(OptionError, match="quality must be"):
        Mine(quality=0)
