"""The verbs work where Python has no POSIX: on Windows, of which this machine lends the missing names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run

MISSING = {
    "os": ["fork", "pread", "pwrite", "register_at_fork", "sysconf", "getuid", "O_CLOEXEC"],
    "signal": ["SIGALRM", "SIGHUP", "SIGUSR1", "setitimer", "pthread_sigmask"],
}
"""What the modules of Python lack on Windows, besides whole modules (SIGKILL too, which `subprocess` here needs)."""
WINDOWS = f"""
import importlib.abc, os, signal, sys

# What other libraries take from these modules they take before: they have Windows variants of their own.
import asyncio, concurrent.futures.process, multiprocessing.util, selectors, subprocess, tempfile  # noqa: F401
import numpy, openslide, tiffslide, fsspec.asyn, filelock  # noqa: F401
if sys.argv[1] != "worker":
    import cyclopts, torch, distributed, matplotlib.pyplot, psutil, zarr  # noqa: F401

class Windows(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

assert not [name for name in sys.modules if name.startswith("wsivit")]
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Windows())
for module, names in {MISSING!r}.items():
    for name in names:
        delattr(sys.modules[module], name)

if sys.argv[1] == "worker":
    from wsivit.slide.readers.worker import main
    sys.exit(main())

from wsivit.slide.readers import isolated
isolated._COMMAND = (sys.executable, "windows.py", "worker")

from wsivit.cli import answered, main
with answered():
    for command in sys.argv[1:]:
        try:
            main(command.split())
        except SystemExit as end:
            if end.code:
                raise
"""
COMMANDS = {
    "info s.tiff": "900 x 800 px",
    "info s.tiff --subprocess": "in a process of its own",
    "tile s.tiff --tile-size 48 -o tiles -q": "s.zarr",
    "verify tiles/s.zarr --slide s.tiff": "tiles/s.zarr: sound",
    "predict run tiles/s.zarr --device cpu -q": "predicted as run",
    "heatmap tiles/s.zarr --png s.png": "s.png",
}


def test_the_verbs_run(tmp_path: Path) -> None:
    (tmp_path / "windows.py").write_text(WINDOWS)
    write_slide(tmp_path / "s.tiff", tissue_picture(900, 800))
    make_run(tmp_path / "run")
    command = [sys.executable, "windows.py", *COMMANDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = iter(done.stdout.splitlines())
    for words, answer in COMMANDS.items():
        assert any(answer in line for line in said), f"{words}: no {answer!r} in order in\n{done.stdout}"
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
