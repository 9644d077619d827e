"""The other side of `isolated`: opens one slide, and decodes what it is asked for until its input ends.

Run as ``python -m wsivit.slide.readers.worker``. The kernel ends this process where it is too slow (a timer whose
signal nothing catches, so that native code that hangs ends too) or where its native code does not survive its memory
limit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from wsivit.slide.backend import Backend
from wsivit.slide.jpeg_levels import JpegTiles
from wsivit.slide.preflight import check_slide
from wsivit.slide.readers.isolated import ERRORS, TOO_SLOW, receive, send
from wsivit.slide.readers.native import NativeBackend
from wsivit.slide.select_reader import open_backend

Answer: TypeAlias = tuple[dict[str, Any], bytes | memoryview]


class Server:
    """What can be asked of a slide, as messages.

    Parameters
    ----------
    job : dict
        The path and how to open it, as `isolated` sends it.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._backend: Backend

    def open(self) -> Answer:
        """Open the slide and describe it."""
        job = self._job
        source = check_slide(job["path"], job["max_pixels"]).source
        self._backend, reason, _ = open_backend(source, job["reader"], job["jpeg_color"], job["scene"])
        facts = self._backend.facts
        levels = range(len(facts.levels))
        streams = [self._streams(level) for level in levels]
        return {
            "name": self._backend.name,
            "reason": reason,
            "facts": {**asdict(facts), "properties": dict(facts.properties)},
            "block_sizes": [self._backend.block_size(level) for level in levels],
            "streams": [t and (t.block_width, t.block_height, t.n_cols, t.n_rows) for t in streams],
        }, b""

    def _streams(self, level: int) -> JpegTiles | None:
        return self._backend.streams(level) if isinstance(self._backend, NativeBackend) else None

    def block(self, level: int, col: int, row: int, reduce: int) -> Answer:
        """Decode one block."""
        pixels = self._backend.block(level, col, row, reduce)
        if pixels is None:
            return {"blank": True}, b""
        return {"blank": False, "shape": pixels.shape}, np.ascontiguousarray(pixels).reshape(-1).data

    def filled(self, level: int) -> Answer:
        """Which native tiles of a level a finer one fills."""
        filled = self._backend.filled(level)
        if filled is None:
            return {"none": True}, b""
        shape = {"tile": (filled.width, filled.height), "shape": filled.where.shape}
        return {"none": False, **shape}, filled.where.tobytes()

    def counts(self, level: int) -> Answer:
        """Compressed bytes of every tile of a level."""
        tiles = self._streams(level)
        return {}, b"" if tiles is None else tiles.counts.tobytes()

    def stream(self, level: int, col: int, row: int) -> Answer:
        """Return one compressed tile that can be decoded, or what is wrong with it."""
        tiles = self._streams(level)
        try:
            stream = None if tiles is None else tiles.stream(col, row)
            if tiles is not None:
                tiles.decode(col, row, 8)
        except (ValueError, OSError) as error:
            return {"wrong": str(error)}, b""
        return {"blank": stream is None}, stream or b""


def main() -> None:
    """Serve standard input until it ends."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native libraries print must not get between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the process that asks
    job, _ = receive(questions)
    _limit_memory(job["memory"])
    server = Server(job)
    _reply(answers, job["seconds"], server.open)
    while True:
        try:
            question, _ = receive(questions)
        except EOFError:
            return
        _reply(answers, job["seconds"], partial(getattr(server, question["do"]), *question["arguments"]))


def _limit_memory(more: int) -> None:
    """Allow so many bytes of address space beyond those taken already, where the system can."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    state = Path("/proc/self/statm")
    taken = int(state.read_text().split()[0]) * resource.getpagesize() if state.exists() else 0
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, most))


def _limit_time(seconds: float) -> Callable[[], object]:
    """End this process after so many seconds, unless what is returned is called before."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return partial(signal.setitimer, signal.ITIMER_REAL, 0)
    # On Windows a thread must do; native code that hangs without releasing the interpreter is then not ended.
    timer = threading.Timer(seconds, os._exit, [TOO_SLOW])
    timer.daemon = True
    timer.start()
    return timer.cancel


def _reply(answers: IO[bytes], seconds: float, act: Callable[[], Answer]) -> None:
    """Answer one question, before the timer ends the process."""
    payload: bytes | memoryview = b""
    stop = _limit_time(seconds)
    try:
        message, payload = act()
    except MemoryError:
        message = {"error": "UnreadableBlockError", "text": "decoding it needs more memory than allowed"}
    except tuple(ERRORS.values()) as error:
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS)
        message = {"error": name, "text": str(error)}
    stop()
    send(answers, message, payload)


if __name__ == "__main__":
    main()
