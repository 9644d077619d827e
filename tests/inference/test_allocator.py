"""Memory that is freed and taken again costs no page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(
    sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="glibc's allocator"
)
ROUNDS = """
import ctypes, resource, sys, threading
from wsivit.inference.cpu import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 64 << 20


def use():
    global before
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = libc.malloc(size)
        ctypes.memset(taken, 1, size)
        libc.free(taken)


thread = threading.Thread(target=use)
thread.start() if "thread" in sys.argv else use()
thread.join() if "thread" in sys.argv else None
print(1000 * (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() // size)
"""


def rounds(*how: str, **environment: str) -> tuple[str, int]:
    """What was said, and the page faults of the third round of 64 MB, per thousand of its pages."""
    free = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    words = [sys.executable, "-c", ROUNDS, *how]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=free | environment)
    said, faults = done.stdout.split()
    return said, int(faults)


@glibc
def test_pages_are_kept() -> None:
    assert rounds("leave") == ("None", 1000)
    assert rounds("keep") == ("True", 0)


@glibc
def test_pages_are_kept_in_a_thread_too() -> None:
    assert rounds("leave", "thread") == ("None", 1000)
    assert rounds("keep", "thread") == ("True", 0)


def test_settings_from_outside_stand() -> None:
    said, _ = rounds("keep", MALLOC_ARENA_MAX="2")
    assert said == "False"
