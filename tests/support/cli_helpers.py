"""The command line in a process of its own, or in this one."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from wsivit.cli import main


def wsivit_(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsivit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def run_cli(*words: object) -> Done:
    """The command line in this process: as fast as a function, and it loads torch once for all."""
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("wsivit")
    root = logging.getLogger()
    before = (logger.handlers[:], logger.level, root.handlers[:], root.level, os.environ.copy())
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        finally:
            logger.handlers, root.handlers = before[0], before[2]
            logger.setLevel(before[1])
            root.setLevel(before[3])
            os.environ.clear()
            os.environ.update(before[4])
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())
