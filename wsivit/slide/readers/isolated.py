"""A reader in a subprocess: where its native code crashes, hangs or exhausts memory, that process dies, not ours.

This does not stop an attacker who takes the decoder over: the process has the rights of the one that started it. But
nothing that it sends is unpickled: messages are lines of JSON and raw pixels.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import LimitError, ScaleError, SlideError, UsageError, WsivitError
from wsivit.io import PerProcess
from wsivit.slide.backend import OtherPicture, Pixels, SlideFacts, TileMask, UnreadableBlockError
from wsivit.slide.read_plan import Level
from wsivit.slide.readers.native import NativeTiles

SECONDS = 60.0
"""Longest that the process may take to open the slide, or to decode one block."""
MEMORY = 4 << 30
"""Bytes that it may take beyond those that it starts with."""

TOO_SLOW = 75
"""Exit code of a process that took too long, where no signal ends it."""

ERRORS: dict[str, type[WsivitError]] = {
    kind.__name__: kind for kind in (SlideError, UnreadableBlockError, LimitError, ScaleError, UsageError)
}
_COMMAND = (sys.executable, "-m", "wsivit.slide.readers.worker")


def send(stream: IO[bytes], message: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write a message: one line of JSON, and the bytes that belong to it."""
    stream.write(json.dumps({**message, "bytes": len(payload)}).encode() + b"\n")
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read a message; `EOFError` where the other side has gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    payload = stream.read(message.pop("bytes"))
    return message, payload


class _Decoder:
    """The process, one question at a time; once dead it stays so."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._lock, self._owner, self._path = threading.Lock(), os.getpid(), job["path"]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has died
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment
        )
        self.hello, _ = self.ask(job)

    def ask(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Ask, and wait for the answer.

        Raises
        ------
        SlideError
            If the process is dead, with what it died of; or whatever error it answers with.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with self._lock:
            try:
                send(process.stdin, question)
                answer, payload = receive(process.stdout)
            except (OSError, EOFError, ValueError):
                raise SlideError(f"{self._path}: {self._death()}") from None
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["text"])
        return answer, payload

    def _death(self) -> str:
        """What the process died of, with the last line that it wrote."""
        self._process.kill()
        code = self._process.wait()
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        if code in (TOO_SLOW, -getattr(signal, "SIGALRM", -TOO_SLOW)):
            how = f"took longer than {SECONDS:g} seconds for one block"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"decoding it in a process of its own {how}" + (f": {last[:200]}" if last else "")

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # a question that it did not live to read
                    stream.close()

    def __del__(self) -> None:
        if not hasattr(self, "_process"):
            return
        if self._owner == os.getpid():
            self.stop()
        else:
            self._process.returncode = 0  # the child of the process that forked us is not ours to wait for


@dataclass
class _Slot:
    """What one process holds of a slide."""

    decoder: _Decoder | None = None


class IsolatedBackend:
    """Any reader, in another process with a limit on its time and memory.

    Parameters
    ----------
    path : str
    reader, jpeg_color : str
        As of `open_slide`.
    max_pixels : int
    scene : int or str, optional

    Raises
    ------
    SlideError
        If no reader reads it, or the process dies of it.
    """

    def __init__(
        self, path: str, reader: str, jpeg_color: str, max_pixels: int, scene: int | str | None = None
    ) -> None:
        self._job = {
            "path": path,
            "reader": reader,
            "jpeg_color": jpeg_color,
            "max_pixels": max_pixels,
            "scene": scene,
            "seconds": SECONDS,
            "memory": MEMORY,
        }
        self._local = PerProcess(_Slot)
        hello = self._decoder().hello
        self.name: str = hello["name"]
        self.reason: str = hello["reason"]
        facts = hello["facts"]
        # JSON has lists where the facts have tuples, and plain objects for levels and pictures.
        levels = tuple(Level(**{**level, "reductions": tuple(level["reductions"])}) for level in facts["levels"])
        others = tuple(OtherPicture(**other) for other in facts["others"])
        tuples = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
        self.facts = SlideFacts(**{**facts, **tuples, "levels": levels, "others": others})
        self._streams: list[list[int] | None] = hello["streams"]
        self._job["reader"] = self.name  # chosen once

    def _decoder(self) -> _Decoder:
        slot = self._local.get()
        if slot.decoder is None:
            slot.decoder = _Decoder(self._job)
        return slot.decoder

    def block_size(self, level: int) -> tuple[int, int]:
        """The reader's own."""
        width, height = self._decoder().hello["block_sizes"][level]
        return width, height

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`; `SlideError` where the process dies of it."""
        answer, payload = self.ask("block", level, col, row, reduce)
        return None if answer["blank"] else np.frombuffer(payload, np.uint8).reshape(answer["shape"])

    def native_tiles(self, level: int) -> NativeTiles | None:
        """See `NativeBackend.native_tiles`."""
        shape = self._streams[level]
        return None if shape is None else NativeTiles(_RemoteStreams(self, level, shape), self.filled(level))

    def filled(self, level: int) -> TileMask | None:
        """See `Backend.filled`."""
        answer, payload = self.ask("filled", level)
        if answer["none"]:
            return None
        width, height = answer["tile"]
        return TileMask(width, height, np.frombuffer(payload, np.bool_).reshape(answer["shape"]))

    def ask(self, what: str, *arguments: int) -> tuple[dict[str, Any], bytes]:
        """Ask this process's decoder."""
        return self._decoder().ask({"do": what, "arguments": arguments})

    def close(self) -> None:
        """End this process's decoder; the next read starts another."""
        slot = self._local.get()
        if slot.decoder is not None:
            slot.decoder.stop()
        slot.decoder = None


class _RemoteStreams:
    """The compressed tiles of a level, from the other process."""

    def __init__(self, backend: IsolatedBackend, level: int, shape: list[int]) -> None:
        self._backend, self.number = backend, level
        self.block_width, self.block_height, self.n_cols, self.n_rows = shape
        _, counts = backend.ask("counts", level)
        self.counts = np.frombuffer(counts, np.int64)

    def stream(self, col: int, row: int) -> bytes | None:
        """See `JpegTiles.stream`."""
        answer, payload = self._backend.ask("stream", self.number, col, row)
        if "wrong" in answer:
            raise ValueError(answer["wrong"])
        return None if answer["blank"] else payload

    def runs(self, col: NDArray[np.int64], row: NDArray[np.int64], size: int) -> Iterator[None]:
        """They come one by one."""
        return repeat(None, -(-len(col) // size))
