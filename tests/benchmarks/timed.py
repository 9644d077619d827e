"""Time a call and print it as a line of JSON: what the rows of ``predicting.py`` and its peers share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path


def timed(run: Callable[[], int], yardstick: Callable[[], int] | None = None) -> None:
    """Print seconds by the clock, CPU seconds of this process and its ended children, and the tiles that it returns.

    A yardstick is run before and after; ``yardstick`` is then its mean rate in tiles per second. What slows the whole
    machine down for a minute slows both. ``others`` is how many cores other processes and guests took meanwhile.
    """
    begun, others = time.perf_counter(), others_seconds()
    before = rate(yardstick) if yardstick else 0.0
    wall, cpu = time.perf_counter(), cpu_seconds()
    tiles = run()
    made = {"s": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu, "tiles": tiles}
    if yardstick:
        made["yardstick"] = (before + rate(yardstick)) / 2
    made["others"] = round((others_seconds() - others) / (time.perf_counter() - begun), 2)
    print(json.dumps(made))


def others_seconds() -> float:
    """CPU seconds that all but this process have had, and that the host did not give; 0 where there is no /proc."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - cpu_seconds()


def rate(run: Callable[[], int]) -> float:
    """Tiles per second by the clock."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(os.times()[:4])
