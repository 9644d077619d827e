"""Tiles slides on demand, each in a forked process of its own: one JSON line in per slide, one out.

Run as a program by `hostile_helpers.Tilers`: importing wsivit once and forking costs 20 ms a slide, where starting
``wsivit`` anew costs more than a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from wsivit.cli import app as cli
from wsivit.cli import slides  # noqa: F401 - loaded before the fork
from wsivit.errors import StoreError, UnreadableTilesError
from wsivit.store import Status, TileStore

LATE = "found to be damaged when it is read"


def serve() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(outcome(**json.loads(line))) + "\n")
        sys.stdout.flush()


def outcome(slide: str, out: str, words: list[str], seconds: float, memory: int) -> dict[str, Any]:
    """Tile one slide in a fork, killed at a deadline, and say how it ended."""
    folder = Path(os.fsdecode(out))
    folder.mkdir(parents=True, exist_ok=True)
    start, pid = time.monotonic(), os.fork()
    if not pid:
        _tile(os.fsdecode(slide), folder, words, memory)
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended or time.monotonic() - start > seconds:
            break
        time.sleep(0.005)
    hung = not ended
    if hung:
        os.killpg(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    said, found = (folder / "stderr").read_text(errors="replace"), folder / "tiles.json"
    return {
        "code": None if hung else os.waitstatus_to_exitcode(status),
        "said": said[-2000:],
        "seconds": time.monotonic() - start,
        "megabytes": usage.ru_maxrss // 1024,
        "tiles": json.loads(found.read_text()) if found.exists() else None,
        "printed": (folder / "stdout").read_text(errors="replace")[-5000:],
    }


def _tile(slide: str, folder: Path, words: list[str], memory: int) -> None:
    """`wsivit tile`, then the digests of what it wrote; never returns."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 70
    try:
        cli.main(["tile", "-q", "-o", str(folder), *words, slide])
    except SystemExit as end:
        code = int(end.code or 0)
        with contextlib.suppress(StoreError, OSError):
            (folder / "tiles.json").write_text(json.dumps(digests(folder)))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def digests(folder: Path) -> dict[str, str | None]:
    """What each tile of the finished store shows, by its place; None where it is marked unreadable."""
    (path,) = folder.glob("*.zarr")
    store = TileStore(path)
    if not store.complete:
        raise StoreError("not finished")
    shown: dict[str, str | None] = {}
    for index in range(len(store)):
        place = f"{store.x0[index]}_{store.y0[index]}"
        readable = store.status[index] != Status.UNREADABLE
        shown[place] = _digest(store, index) if readable else None
    return shown


def _digest(store: TileStore, index: int) -> str:
    try:
        return hashlib.sha1(store.read([index])).hexdigest()
    except UnreadableTilesError:
        return LATE


if __name__ == "__main__":
    serve()
