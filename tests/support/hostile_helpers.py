"""Campaigns against hostile slides: tile each in a process of its own and judge how that ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from typing import Any

from support.long_amounts import amount
from support.small_slides import TOOLS

SECONDS, MEMORY = 120.0, 6 << 30
PROCESSES = amount("processes", 2)
CHILD = Path(__file__).with_name("hostile_child.py")
MAKER = TOOLS / "make_bad_slides.py"


@dataclass(frozen=True)
class Outcome:
    """How tiling one slide ended.

    Attributes
    ----------
    code : int or None
        Exit code, negative for a signal; None where it had to be killed.
    said, printed : str
        Standard error and output.
    seconds : float
    megabytes : int
        Peak memory of the process or of one that it started.
    tiles : dict or None
        Digest of each tile's pixels by place, None for one marked unreadable; None where no finished store is.
    """

    code: int | None
    said: str
    printed: str
    seconds: float
    megabytes: int
    tiles: dict[str, str | None] | None

    @property
    def kind(self) -> str:
        """``ok``, ``error`` (one clear line), ``traceback``, ``signal`` or ``hang``."""
        if self.code is None or self.code < 0:
            return "hang" if self.code is None else "signal"
        if self.code == 0:
            return "ok"
        clear = "Traceback" not in self.said + self.printed and self.code in (2, 3, 4, 5, 6)
        return "error" if clear else "traceback"

    def changed(self, reference: Outcome) -> int:
        """Tiles that show something else than the reference and are not marked unreadable."""
        ours, theirs = self.tiles or {}, reference.tiles or {}
        return sum(ours.get(place) not in (None, shown) for place, shown in theirs.items())


class Tilers:
    """A few processes that tile slides; used as a context manager."""

    def __init__(self, folder: Path, processes: int = PROCESSES) -> None:
        self.folder, self._idle, self._number = folder, SimpleQueue[subprocess.Popen[str]](), 0
        self._processes, self._stack = processes, ExitStack()

    def __enter__(self) -> Tilers:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
        for _ in range(self._processes):
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            process = subprocess.Popen([sys.executable, CHILD], env=environment, **pipes)
            self._stack.enter_context(process)
            self._stack.callback(process.stdin.close)  # type: ignore[union-attr]
            self._idle.put(process)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def tile(self, slide: Path, *words: str, seconds: float = SECONDS, memory: int = MEMORY) -> Outcome:
        """Tile one slide into a fresh folder that is deleted afterwards."""
        process = self._idle.get()
        out = self.folder / f"out-{process.pid}"
        rmtree(out, ignore_errors=True)
        # Names that are no text travel as the escapes that JSON has for them.
        job = {"slide": os.fspath(slide), "out": os.fspath(out), "words": words, "seconds": seconds, "memory": memory}
        try:
            process.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return Outcome(**json.loads(process.stdout.readline()))  # type: ignore[union-attr]
        finally:
            rmtree(out, ignore_errors=True)
            self._idle.put(process)

    def tile_all(self, slides: Iterable[Path], *words: str, **limits: Any) -> Iterator[Outcome]:
        """Tile many, in order, as many at a time as there are processes."""
        with ThreadPoolExecutor(self._processes) as pool:
            yield from pool.map(lambda slide: self.tile(slide, *words, **limits), slides)
