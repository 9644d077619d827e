"""Slides and stores at URLs: the same bytes as in a folder, few requests, faults survived, credentials untold."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.remote_helpers import Files, serving
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import chunks, file_digest, parameters, table, tree_digest

from wsivit import TileOptions, open_slide, tile, verify
from wsivit.errors import RemoteError, SlideNotFoundError, StoreLockedError, UsageError
from wsivit.io import lock
from wsivit.io.byte_source import BLOCK, RemoteFile
from wsivit.io.credentials import complete, public, scrub
from wsivit.io.files import RemoteFiles
from wsivit.io.remote import Remote, coalesce, is_url, join, parent_and_name
from wsivit.store import StoreWriter

SECRET = "PLANTED-secret+0123456789"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("remote") / "s.tiff", tissue_picture(1500, 1200), tile=128)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIVIT_REMOTE_PATIENCE", "1")


def remote_digest(system: fsspec.AbstractFileSystem, root: str) -> dict[str, str]:
    return {path.partition(f"{root}/")[2]: file_digest(system.cat_file(path)) for path in system.find(root)}


# --- a store at a URL


@pytest.mark.parametrize("codec", ["jpeg", "zstd", "none"])
def test_a_store_at_a_url_is_the_same_bytes(
    slide: Path, tmp_path: Path, memory: fsspec.AbstractFileSystem, codec: str
) -> None:
    options = TileOptions(tile_size=128, codec=codec)  # type: ignore[arg-type]
    near = tile(slide, tmp_path, options)
    far = tile(slide, "memory://out", options)
    assert (far.preview, far.store.url) == ("memory://out/s-preview.png", "memory://out/s.zarr")
    assert tree_digest(near.store.path) == remote_digest(memory, "/out/s.zarr")
    assert memory.cat_file("/out/s-preview.png") == Path(near.preview).read_bytes()
    assert sorted(memory.ls("/out", detail=False)) == ["/out/s-preview.png", "/out/s.zarr"]
    assert verify("memory://out/s.zarr", slide=slide) == []
    np.testing.assert_array_equal(far.store.read(far.store.readable), near.store.read(near.store.readable))


def test_a_broken_off_store_at_a_url_is_gone_on_with(
    slide: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsivit.tiling.tiling_plan._shard_tiles", lambda options: 16)
    options = TileOptions(tile_size=128)
    whole = tile(slide, "memory://whole", options)
    begin, calls = StoreWriter.write_shard, []

    def breaks(self: StoreWriter, *args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        begin(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(StoreWriter, "write_shard", breaks)
    with pytest.raises(KeyboardInterrupt):
        tile(slide, "memory://broken", options)
    done = tile(slide, "memory://broken", options)
    assert done.resumed == 2
    assert whole.resumed == 0
    assert remote_digest(memory, "/broken/s.zarr") == remote_digest(memory, "/whole/s.zarr")


def test_one_writer_at_a_url(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SETTLE", 0)
    chosen = parameters()
    with StoreWriter.open("memory://one/a.zarr", chosen, table(chosen)):
        with pytest.raises(
            StoreLockedError, match=rf"memory://one/a.zarr is being written by process {os.getpid()} on"
        ):
            StoreWriter.open("memory://one/a.zarr", chosen, table(chosen))
        # What a machine that was switched off left behind ends with its time.
        holder = json.loads(memory.cat_file("/one/.a.zarr.lock"))
        memory.pipe_file("/one/.a.zarr.lock", json.dumps({**holder, "until": time.time() - 1, "host": "gone"}).encode())
        StoreWriter.open("memory://one/a.zarr", chosen, table(chosen)).close()
    assert not memory.exists("/one/.a.zarr.lock")


def test_a_killed_writer_of_this_machine_holds_nothing(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_SETTLE", 0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = RemoteFiles("memory://one")
    held = lock.Lease(folder, "a.zarr")
    holder = json.loads(memory.cat_file("/one/.a.zarr.lock"))
    memory.pipe_file("/one/.a.zarr.lock", json.dumps({**holder, "pid": ended.pid, "token": "other"}).encode())
    lock.Lease(folder, "a.zarr").close()
    held.close()


def test_a_writer_that_lost_its_lease_stops(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE", 0.2)
    chosen = parameters()
    with StoreWriter.open("memory://one/a.zarr", chosen, table(chosen)) as writer:
        memory.pipe_file("/one/.a.zarr.lock", json.dumps({"host": "other", "pid": 7, "until": 9e9}).encode())
        held = writer._lock
        assert isinstance(held, lock.Lease)
        held._thread.join(timeout=5)
        writer.write_shard(writer.pending()[0], chunks(chosen, writer.pending()[0]))
        with pytest.raises(StoreLockedError, match="taken over by process 7 on other"):
            writer.pending()
    assert memory.exists("/one/.a.zarr.lock")


# --- reading at URLs


def test_neighbours_come_in_one_request(tmp_path: Path) -> None:
    big = write_slide(tmp_path / "big.tiff", tissue_picture(2400, 2000), tile=128, levels=3)
    with serving(Files, files={"/big.tiff": big.read_bytes()}) as server:
        far = tile(f"http://{server.address}/big.tiff", tmp_path / "far", TileOptions(tile_size=128)).store
        requests, sent = len(server.requests), server.bytes_sent
    near = tile(big, tmp_path / "near", TileOptions(tile_size=128)).store
    np.testing.assert_array_equal(far.read(far.readable), near.read(near.readable))
    assert len(far) > 100
    size = big.stat().st_size
    assert requests < 10 + size / BLOCK
    assert sent < 1.5 * size


def test_reading_in_order_asks_for_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsivit.io.byte_source._SMALL", 0)  # smaller files are read in whole blocks anyway
    content = np.random.default_rng(0).bytes(40 * BLOCK + 77)
    with serving(Files, files={"/a": content}) as server:
        file = RemoteFile(f"http://{server.address}/a")
        step = 30_000
        parts = [file.read(start, step) for start in range(0, len(content), step)]
        file.close()
        assert b"".join(parts) == content
        assert len(server.requests) < 10
        assert server.bytes_sent == len(content)
        server.requests.clear()
        scattered = [(k * 5 * BLOCK, k * 5 * BLOCK + 10) for k in range(8)]
        assert file.read_spread(scattered) == [content[a:b] for a, b in scattered]
        assert server.bytes_sent == len(content) + 80
        assert pickle.loads(pickle.dumps(Remote(f"http://{server.address}/a"))).read("", 5, 9) == content[5:9]


def test_close_ranges_are_joined() -> None:
    ranges = [("b", 0, 5), ("a", 100, 110), ("a", 0, 10), ("a", 9, 12), ("a", 90, 95)]
    requests, owner = coalesce(ranges, gap=5, longest=60)
    assert requests == [("a", 0, 12), ("a", 90, 110), ("b", 0, 5)]
    assert owner == [2, 1, 0, 0, 1]


def test_a_server_without_ranges_is_named(slide: Path, impatient: None) -> None:
    with (
        serving(Files, files={"/s.tiff": b"II*\0" + bytes(10 * BLOCK)}, whole=True) as server,
        pytest.raises(RemoteError, match=r"/s\.tiff: its server does not answer for parts of a file: download it"),
    ):
        open_slide(f"http://{server.address}/s.tiff")


def test_what_does_not_answer_is_given_up_clearly(slide: Path, impatient: None) -> None:
    with serving(Files, files={}) as server:
        with pytest.raises(SlideNotFoundError, match="there is no such slide"):
            open_slide(f"http://{server.address}/none.tiff")
        server.facts |= {"files": {"/s.tiff": slide.read_bytes()}, "status": 503}
        with pytest.raises(RemoteError, match=r"/s\.tiff: cannot look at it, gave up after [01] s .*503.*run the same"):
            open_slide(f"http://{server.address}/s.tiff")
        server.facts["status"] = 403
        with pytest.raises(RemoteError, match="access denied"):
            open_slide(f"http://{server.address}/s.tiff")
    with pytest.raises(RemoteError, match="nonsense"):
        open_slide("nonsense://a/b.svs")


def test_tiles_that_were_not_fetched_are_not_damaged(slide: Path, tmp_path: Path, impatient: None) -> None:
    with serving(Files, files={"/s.tiff": slide.read_bytes()}) as server:
        opened = open_slide(f"http://{server.address}/s.tiff")
        opened.fingerprint  # noqa: B018
        opened._backend.close()
        server.facts["status"] = 500
        with pytest.raises(RemoteError, match="500"):
            tile(opened, tmp_path)
        server.facts["status"] = None
        assert tile(opened, tmp_path).failures == {}


# --- credentials


def test_urls_are_shown_without_credentials() -> None:
    given = f"https://me:{SECRET}@host/a/b.svs?versionId=7&X-Amz-Signature={SECRET}"
    assert public(given) == "https://host/a/b.svs?versionId=7"
    assert complete(public(given)) == given
    assert public("s3://bucket/a b.svs") == "s3://bucket/a b.svs"
    assert scrub(f"GET {given}, failed for {SECRET}") == "GET https://host/a/b.svs?versionId=7 failed for ***"
    assert SECRET not in str(UsageError(f"cannot open {given}"))
    assert pickle.loads(pickle.dumps(UsageError("as it was"))).args == ("as it was",)


def test_places_below_urls() -> None:
    assert join("s3://b/a/", "x") == join("s3://b/a", "x") == "s3://b/a/x"
    assert join("https://h/a?sig=1", "x") == "https://h/a/x?sig=1"
    assert parent_and_name("https://h/a/x?sig=1") == ("https://h/a?sig=1", "x")
    assert parent_and_name("memory://a.zarr") == ("memory://", "a.zarr")
    assert not is_url("file:///a")
    assert is_url("gs://a")


CALLS = """
import json, sys
from wsivit.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as done:
        print("code", done.code)
    except Exception as error:
        import traceback
        traceback.print_exc()
        print("code", type(error).__name__)
"""


def test_a_planted_secret_is_found_nowhere(slide: Path, tmp_path: Path) -> None:
    environment = os.environ | {"AWS_SECRET_ACCESS_KEY": SECRET, "WSIVIT_REMOTE_PATIENCE": "1"}
    with serving(Files, files={"/s.tiff": slide.read_bytes()}, user="me:PLANTED-password") as server:
        url = f"http://me:PLANTED-password@{server.address}/s.tiff?X-Amz-Signature=PLANTED-signature"
        gone, denied = url.replace("s.tiff", "gone.tiff"), url.replace("PLANTED-password", "PLANTED-wrong")
        calls = [
            ["tile", url, "-o", str(tmp_path), "--codec", "none"],
            ["info", url, "--json"],
            ["info", gone],
            ["info", denied],
            ["info", denied, "--debug"],
            ["tile", url, "-o", f"nonsense://me:{SECRET}@b/c?{SECRET}"],
            ["verify", f"memory://me:{SECRET}@a.zarr?{SECRET}"],
        ]
        command = [sys.executable, "-c", CALLS, json.dumps(calls)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    codes = [line.removeprefix("code ") for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["0", "0", "3", "3", "RemoteError", "7", "8"], done.stderr
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    told = [done.stdout, done.stderr, *(file.read_bytes().decode("latin-1") for file in written)]
    assert [text for text in told if "PLANTED" in text] == []
    assert f"http://{server.address}/s.tiff" in (tmp_path / "s.zarr" / "zarr.json").read_text()
