"""Threads over a stream keep its order, and do not run away with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsivit.io.processes import map_ordered


@given(st.lists(st.integers()), st.integers(1, 5), st.integers(1, 9))
def test_same_as_map(items: list[int], threads: int, ahead: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        assert list(map_ordered(pool, lambda n: n * n, items, ahead)) == [n * n for n in items]


def test_draws_no_more_than_it_was_told() -> None:
    drawn = 0

    def stream() -> Iterator[int]:
        nonlocal drawn
        for n in range(1000):
            drawn = n + 1
            yield n

    with ThreadPoolExecutor(2) as pool:
        results = map_ordered(pool, str, stream(), ahead=8)
        for _ in range(10):
            next(results)
        assert drawn <= 18
        results.close()


def test_an_error_comes_out_where_it_happened() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = map_ordered(pool, lambda n: 1 // n, [2, 1, 0, 1])
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
