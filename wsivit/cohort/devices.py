"""Which of several devices is this process's own, without anyone who gives them out."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from functools import cache
from pathlib import Path

from wsivit.errors import StoreLockedError
from wsivit.io import Lock

_held: list[Lock] = []


@cache
def claim_device(devices: str) -> str:
    """Take one of several devices, with commas: the first of those that the fewest processes of this machine have.

    It stays this process's own until it ends, however that comes, so a worker that takes the place of another gets its
    device. ``auto`` are all GPUs that this process sees.
    """
    each = [device.strip() for device in devices.split(",")]
    if each == ["auto"]:
        each = _gpus() or each
    if len(each) == 1:
        return each[0]
    return next(device for turn in itertools.count() for device in each if _take(device, turn))


def _gpus() -> list[str]:
    import torch

    return [f"cuda:{k}" for k in range(torch.cuda.device_count())]


def _take(device: str, turn: int) -> bool:
    """Whether this process is the one that has a device in some turn; the kernel keeps the list."""
    name = hashlib.sha256(f"{device} {turn}".encode()).hexdigest()[:16]
    try:
        _held.append(Lock(Path(tempfile.gettempdir(), f"wsivit-{os.getuid()}-device-{name}")))
    except StoreLockedError:
        return False
    return True
