"""A slide on which native code crashes, hangs or eats memory takes only a process of its own along."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.slide_helpers import damage, texture, write_jpeg_slide

from wsivit import open_slide
from wsivit.errors import LimitError, SlideError, UsageError
from wsivit.slide import Slide, TileFailure
from wsivit.slide.readers import isolated
from wsivit.tiling import TileOptions, tile

PICTURE = texture(700, 500)
DESCRIPTION = "Aperio Image Library v1\r\n700x500|AppMag = 20|MPP = 0.4990"
FAULTS = {
    "abort": "os.abort()",
    "segfault": "ctypes.string_at(8)",
    "hang": "ctypes.CDLL(None).pause()",
    "memory": "np.ones(8 << 30, np.uint8)",
    "exit": "os._exit(9)",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_jpeg_slide(tmp_path / "a.svs", PICTURE, description=DESCRIPTION, tables=True, levels=(1, 2))


def break_block(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Have the decoder of the other process meet a fault in block (2, 1) of level 0."""
    code = f"""
import ctypes, os, time, sys, numpy as np
from wsivit.slide import jpeg_levels as tiled
from wsivit.slide.readers import worker as decoder
decode = tiled.JpegTiles.decode
def broken(self, col, row, *more):
    if (self.number, col, row) == (0, 2, 1) and broken.armed:
        sys.stderr.write("what it said\\n")
        {FAULTS[fault]}
    return decode(self, col, row, *more)
broken.armed = False
tiled.JpegTiles.decode = broken
answer = decoder.Server.block
def block(*arguments):
    broken.armed = True
    return answer(*arguments)
decoder.Server.block = block
decoder.main()
"""
    monkeypatch.setattr(isolated, "_COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(isolated, "SECONDS", 3.0)
    monkeypatch.setattr(isolated, "MEMORY", 2 << 30)


def read_all(slide: Slide) -> list[np.ndarray | TileFailure]:
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(0, 700, 128), np.arange(0, 500, 128)))
    return list(slide.read_tiles(slide.plan(0.499), 128, x, y))


@pytest.mark.parametrize("reader", ["auto", "native", "openslide", "tiffslide"])
def test_an_isolated_slide_is_the_same_slide(path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    with (
        open_slide(path, reader=reader, mpp=0.5) as here,
        open_slide(path, reader=reader, mpp=0.5, subprocess=True) as slide,
    ):
        assert slide.isolated
        assert not here.isolated
        assert slide._backend.facts == here._backend.facts
        assert slide.reader_reason == here.reader_reason + "; in a process of its own: asked for"
        assert slide.open_options == here.open_options
        np.testing.assert_array_equal(read_all(slide), read_all(here))
        np.testing.assert_array_equal(slide.thumbnail(100), here.thumbnail(100))
        ours, theirs = slide.native_tiles(0), here.native_tiles(0)
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours.tile_width, ours.n_cols, ours.jpeg(1, 2)) == (128, 6, theirs.jpeg(1, 2))
        with pickle.loads(pickle.dumps(slide)) as copy:
            assert copy.isolated
            np.testing.assert_array_equal(copy.thumbnail(100), here.thumbnail(100))


def test_threads_and_forks_have_decoders_of_their_own(path: Path) -> None:
    with open_slide(path, subprocess=True) as slide:
        expected = slide.thumbnail(64).tobytes()
        with ThreadPoolExecutor(3) as pool:
            assert set(pool.map(lambda _: slide.thumbnail(64).tobytes(), range(6))) == {expected}
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        children = [context.Process(target=lambda: queue.put(slide.thumbnail(64).tobytes())) for _ in range(2)]
        for child in children:
            child.start()
        assert [queue.get() for _ in children] == [expected] * 2
        for child in children:
            child.join()
        assert slide.thumbnail(64).tobytes() == expected
        slide.close()
        assert slide.thumbnail(64).tobytes() == expected


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("abort", "SIGABRT: what it said"),
        ("segfault", "SIGSEGV"),
        ("hang", "longer than 3 seconds"),
        ("exit", "code 9"),
    ],
)
def test_a_dead_decoder_is_that_slides_failure(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    break_block(monkeypatch, fault)
    with open_slide(path, subprocess=True) as slide:
        with pytest.raises(SlideError, match=rf"a\.svs: decoding it in a process of its own .*{words}"):
            read_all(slide)
        with pytest.raises(SlideError, match=words):  # nor is it tried again and again
            slide.thumbnail(64)
        if fault != "hang":
            with pytest.raises(SlideError, match=words):
                tile(slide, tmp_path, TileOptions(mpp=0.499, tissue="none", tile_size=100))


def test_a_block_beyond_the_memory_limit_is_unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_block(monkeypatch, "memory")
    with open_slide(path, subprocess=True) as slide:
        found = read_all(slide)
    assert [i for i, shown in enumerate(found) if isinstance(shown, TileFailure)] == [6 + 2]


def test_an_odd_structure_is_reason_enough(path: Path) -> None:
    with open_slide(path) as slide:
        assert not slide.isolated
    damage(path, 8, "beyond")
    with open_slide(path) as slide:
        assert slide.isolated
        assert "1 of 24 tiles or strips lie outside the file" in slide.reader_reason
        found = read_all(slide)
    assert [i for i, shown in enumerate(found) if isinstance(shown, TileFailure)] == [8]


def test_errors_come_through_as_they_are(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=r"a\.svs: 350,000 pixels are more than the limit of 1,000: raise"):
        open_slide(path, max_pixels=1000)
    with pytest.raises(UsageError, match="jpeg_color"):
        open_slide(path, subprocess=True, reader="tiffslide", jpeg_color="rgb")
    (tmp_path / "b.svs").write_bytes(b"no slide at all")
    with pytest.raises(SlideError, match=r"b\.svs: no reader reads it"):
        open_slide(tmp_path / "b.svs", subprocess=True)


def test_no_decoder_outlives_the_process_that_asks_it(path: Path) -> None:
    code = "import sys, time; from wsivit import open_slide; slide = open_slide(sys.argv[1], subprocess=True)\n"
    code += "print(slide._backend._local.get().decoder._process.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        decoder = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{decoder}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{decoder}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert time.monotonic() < deadline
