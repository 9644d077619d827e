"""What every test may use: where the real slides are, and small slides written on the spot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.small_slides import SLIDES

# Tests run side by side, a process for each core: more threads in each (torch, BLAS) only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In the background of a script Ctrl-C is ignored, and what wsivit starts with ignored it leaves so.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("wsivit", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("wsivit")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, so that figures are the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_slide() -> Callable[[str], Path]:
    """Return a function from a file name to a real slide's path; skips the test where it is not at hand."""

    def find(name: str) -> Path:
        path = SLIDES / name
        if not path.exists():
            pytest.skip(f"real slide {name} is not at hand: CONTRIBUTING.md says where to get it (WSIVIT_SLIDES)")
        return path

    return find
