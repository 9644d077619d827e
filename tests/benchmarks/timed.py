"""Time a call and print it as a line of JSON: what the rows of ``predicting.py`` and its peers share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable


def timed(run: Callable[[], int], yardstick: Callable[[], int] | None = None) -> None:
    """Print seconds by the clock, CPU seconds of this process and its ended children, and the tiles that it returns.

    A yardstick is run before and after; ``yardstick`` is then its mean rate in tiles per second. What slows the whole
    machine down for a minute slows both.
    """
    before = rate(yardstick) if yardstick else 0.0
    wall, cpu = time.perf_counter(), cpu_seconds()
    tiles = run()
    made = {"s": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu, "tiles": tiles}
    print(json.dumps(made | ({"yardstick": (before + rate(yardstick)) / 2} if yardstick else {})))


def rate(run: Callable[[], int]) -> float:
    """Tiles per second by the clock."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(os.times()[:4])
