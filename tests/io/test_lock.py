"""The lock of a store, and what stands in for it on file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

import pytest

from wsivit.errors import OutputError, StoreLockedError
from wsivit.io.lock import Lock

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system without locks."""
    mount = tmp_path / "mount"
    mount.mkdir()
    flock = fcntl.flock

    def refusing(handle: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_relative_to(mount):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", refusing)
    return mount


def in_a_child(work: object) -> int:
    child = os.fork()
    if child == 0:
        work()  # type: ignore[operator]
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_without_locks_a_file_says_who_writes(no_locks: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = no_locks / "a.zarr"
    with Lock(target):
        assert "this file system has no locks" in caplog.text
        with pytest.raises(StoreLockedError, match=rf"process {os.getpid()} on .* remove .*\.a\.zarr\.lock-file"):
            Lock(target)
    with Lock(target):
        pass
    assert list(no_locks.iterdir()) == []


def test_a_lock_that_was_left_is_taken_over_on_its_machine_only(no_locks: Path) -> None:
    target = no_locks / "a.zarr"
    held = no_locks / ".a.zarr.lock-file"
    assert in_a_child(lambda: (Lock(target), os._exit(9))) == 9
    assert held.exists()
    Lock(target).close()
    other = socket.gethostname() + "-other"
    held.write_text(f"1\n{other}\n")  # as filelock writes it
    (no_locks / ".a.zarr.lock").write_text(json.dumps({"pid": 1, "host": other}))
    with pytest.raises(StoreLockedError, match=r"process 1 on .*-other.*if it has ended, remove"):
        Lock(target)
    held.unlink()  # as the error says
    Lock(target).close()


@pytest.mark.parametrize("locks", ["kernel", "files"])
def test_one_at_a_time(locks: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue("no_locks") if locks == "files" else tmp_path
    counter = folder / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(10):
            with Lock(folder / "a.zarr", wait=60):
                n = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(n + 1))

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            count()
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert counter.read_text() == "40"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write in"):
        Lock(tmp_path / "file" / "a.zarr")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with Lock(tmp_path / "a.zarr"), pytest.raises(StoreLockedError, match="being written by another process"):
        Lock(tmp_path / "a.zarr")
