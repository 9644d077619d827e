"""A Dask cluster of separate processes, some of which come to an untimely end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class DaskProcesses:
    """A scheduler and workers, each a process of its own; commands may be run inside others (``ip netns exec …``)."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self._folder, self._host = folder, host
        self._port = free_port()
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"tcp://{self._host}:{self._port}"

    def start_scheduler(self) -> None:
        words = ["scheduler", "--host", self._host, "--port", str(self._port), "--no-dashboard"]
        self.scheduler = self._start(words)
        wait_for(lambda: answers(self._host, self._port), "the scheduler answers")

    def start_worker(self, within: Sequence[str] = (), *options: str) -> None:
        words = ["worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", *options]
        self.workers.append(self._start(words, within))

    def _start(self, words: list[str], within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        log = (self._folder / "dask.log").open("ab")
        command = [*within, sys.executable, "-m", "dask", *words]
        return subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, env=os.environ | quiet())

    def kill_worker(self) -> None:
        worker = self.workers.pop(0)
        worker.kill()
        worker.wait()

    def kill_workers(self) -> None:
        while self.workers:
            self.kill_worker()

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()

    def close(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()


@contextmanager
def dask_processes(folder: Path, workers: int = 2) -> Iterator[DaskProcesses]:
    folder.mkdir(exist_ok=True)
    cluster = DaskProcesses(folder)
    try:
        cluster.start_scheduler()
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.close()


def quiet() -> dict[str, str]:
    # The scheduler forgets a silent worker soon, and a worker that lost its scheduler ends soon.
    return {
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10 seconds",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
        "DASK_TEMPORARY_DIRECTORY": os.environ.get("TMPDIR", "/tmp"),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@contextmanager
def meanwhile(mischief: Callable[[], None]) -> Iterator[None]:
    """Run something beside the test; what goes wrong in it is raised at the end."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            mischief()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if wrong:
        raise wrong[0]


def states(cohort: Path, verb: str = "tile") -> dict[str, tuple[str, int]]:
    """State of each slide, and the process that has it, from the records on disk."""
    found = {}
    for path in (cohort / ".ledger" / verb).glob("[!.]*.json"):
        record = json.loads(path.read_text())
        found[record["slide_id"]] = (record["state"], int(record["worker"].rpartition(":")[2]))
    return found


def kill_whoever_runs(cohort: Path, slide: str, seconds: float = 120) -> None:
    """Wait until some process works on a slide, and kill it."""
    wait_for(lambda: states(cohort).get(slide, ("", 0))[0] == "running", f"{slide} is running", seconds)
    os.kill(states(cohort)[slide][1], signal.SIGKILL)
