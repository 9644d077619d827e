"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def wsivit_(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsivit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
