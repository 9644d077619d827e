"""One of several devices for each process, without a coordinator."""

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
    """Claim one of several devices, separated by commas: the first that the fewest processes of this machine have.

    The claim is a lock that ends with the process, however that ends, so a worker that replaces a lost one gets its
    device. ``auto`` stands for all GPUs that this process sees.
    """
    each = [device.strip() for device in devices.split(",")]
    if each == ["auto"]:
        each = _gpus() or each
    if len(each) == 1:
        return each[0]
    # Every device has one lock per round: the processes beyond the number of devices share them evenly.
    return next(device for turn in itertools.count() for device in each if _claim(device, turn))


def _gpus() -> list[str]:
    import torch

    return [f"cuda:{k}" for k in range(torch.cuda.device_count())]


def _claim(device: str, turn: int) -> bool:
    name = hashlib.sha256(f"{device} {turn}".encode()).hexdigest()[:16]
    user = getattr(os, "getuid", str)()  # Windows has no uid, and a temporary folder for each user
    try:
        _held.append(Lock(Path(tempfile.gettempdir(), f"wsivit-{user}-device-{name}")))
    except StoreLockedError:
        return False
    return True
