"""What becomes of the memory that is freed."""

from __future__ import annotations

import ctypes
import os
import sys

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_NEVER = 2**31 - 1
_HEAP = 64 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next allocation, in this process; return whether it does.

    A network on the CPU allocates the output of every layer anew, batch after batch. Pieces of that size glibc takes
    from the kernel and gives back each time, page by page: a fifth of a ResNet-50's time. The peak of the process's
    memory stays what it was; it does not shrink afterwards. Settings from outside (``MALLOC_*``, ``GLIBC_TUNABLES``)
    are left as they are, and so are other allocators.

    Threads that are begun later share the memory of all. Called when there are threads with heaps of their own already,
    it still keeps those, but what is larger than one (64 MB) is taken from the kernel again and again.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: _NEVER, _M_TRIM_THRESHOLD: _NEVER, _M_ARENA_MAX: 1, _M_TOP_PAD: _HEAP}
    done = [mallopt(name, value) for name, value in settings.items()]
    return all(done)
