"""How much of the long tests is run."""

from __future__ import annotations

import os


def amount(name: str, full: int) -> int:
    """How many times, or in which steps: all of it, unless ``WSIVIT_LONG_<NAME>`` says otherwise."""
    return int(os.environ.get(f"WSIVIT_LONG_{name.upper()}", full))
