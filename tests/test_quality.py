"""ruff and mypy --strict, as tests, so that one command checks everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("arguments", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_clean(arguments: list[str]) -> None:
    if arguments == ["mypy"]:  # the stubs of libraries may be written for this Python or a newer one
        arguments = ["mypy", "--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
