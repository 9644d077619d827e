"""One progress bar for all verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, what: str, unit: str, *, show: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a bar on standard error; it draws nothing unless `show`."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, disable=not show, dynamic_ncols=True, smoothing=0.1) as bar:
        yield bar.update
