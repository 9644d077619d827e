"""Read random batches of tiles from a store, and from what else they could be kept in, and compare.

Each reader is a process of its own that stays, and they take turns, several rounds over; the table gives medians. The
bytes are the same for all: the store's own JPEGs, copied into a folder, an LMDB and an HDF5 file. "Bare decoder" is
`simplejpeg.decode_jpeg` alone on bytes that are in memory already, in as many threads, into a batch that is used again
and again: nothing can be faster than that. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BATCH = 64
Batch: TypeAlias = NDArray[np.uint8]
Read: TypeAlias = Callable[[NDArray[np.int64], Batch], object]


@dataclass(frozen=True)
class Source:
    """What a reader needs to know of the store; it comes as JSON, as readers do not import wsivit."""

    store: str
    scratch: str
    slide: str
    size: int
    tiles: list[int]
    x0: list[int]
    y0: list[int]
    downsample: float
    threads: int


# The readers. Each gets the source and returns a function that fills a batch.


def in_threads(source: Source, decode: Callable[[int, NDArray[np.uint8]], object]) -> Read:
    """Fill a batch tile by tile in threads that share one iterator."""
    pool = ThreadPoolExecutor(source.threads)

    def read(indexes: NDArray[np.int64], out: Batch) -> None:
        todo = iter(list(enumerate(indexes.tolist())))

        def work() -> None:
            for place, index in todo:
                decode(index, out[place])

        for job in [pool.submit(work) for _ in range(source.threads)]:
            job.result()

    return read


def bare(source: Source) -> Read:
    from simplejpeg import decode_jpeg

    chunks = {index: (Path(source.scratch) / f"jpeg/{index}.jpg").read_bytes() for index in source.tiles}
    return in_threads(source, lambda index, out: decode_jpeg(chunks[index], buffer=out))


def wsivit(source: Source) -> Read:
    from wsivit import TileStore

    store = TileStore(source.store)
    return lambda indexes, out: store.read(indexes, out, threads=source.threads)


def wsivit_singly(source: Source) -> Read:
    from wsivit import TileStore

    store = TileStore(source.store)
    return lambda indexes, out: [store[index] for index in indexes.tolist()]


def zarr_python(source: Source) -> Read:
    import zarr

    tiles = zarr.open_array(f"{source.store}/tiles", mode="r")

    def read(indexes: NDArray[np.int64], out: Batch) -> None:
        order = np.argsort(indexes)
        out[order] = tiles.oindex[indexes[order]]

    return read


def zarr_singly(source: Source) -> Read:
    import zarr

    tiles = zarr.open_array(f"{source.store}/tiles", mode="r")
    return lambda indexes, out: [tiles[index] for index in indexes.tolist()]


def folder(source: Source) -> Read:
    from simplejpeg import decode_jpeg

    root = f"{source.scratch}/jpeg/"

    def decode(index: int, out: NDArray[np.uint8]) -> None:
        with open(f"{root}{index}.jpg", "rb") as file:  # noqa: PTH123  (faster than Path)
            decode_jpeg(file.read(), buffer=out)

    return in_threads(source, decode)


def lmdb(source: Source) -> Read:
    from simplejpeg import decode_jpeg

    stored = lmdb_stored(source)
    return in_threads(source, lambda index, out: decode_jpeg(stored(index), buffer=out))


def lmdb_stacked(source: Source) -> Read:
    """As a dataset does whose tiles a loader puts together."""
    from simplejpeg import decode_jpeg

    stored, pool = lmdb_stored(source), ThreadPoolExecutor(source.threads)

    def read(indexes: NDArray[np.int64], out: Batch) -> None:
        np.stack(list(pool.map(lambda index: decode_jpeg(stored(index)), indexes.tolist())), out=out)

    return read


def lmdb_stored(source: Source) -> Callable[[int], Any]:
    import lmdb

    path = f"{source.scratch}/tiles.lmdb"
    if not Path(path).exists():
        with lmdb.open(path, map_size=1 << 40) as made, made.begin(write=True) as transaction:
            for index in source.tiles:
                transaction.put(b"%d" % index, Path(f"{source.scratch}/jpeg/{index}.jpg").read_bytes())
    database = lmdb.open(path, readonly=True, lock=False, readahead=False)
    transaction = database.begin(buffers=True)
    return lambda index: transaction.get(b"%d" % index)


def hdf5(source: Source) -> Read:
    import h5py
    from simplejpeg import decode_jpeg

    path = Path(source.scratch) / "tiles.h5"
    if not path.exists():
        chunks = [np.fromfile(f"{source.scratch}/jpeg/{index}.jpg", np.uint8) for index in source.tiles]
        ends = np.cumsum([0, *map(len, chunks)])
        with h5py.File(path, "w") as made:
            made["bytes"], made["ends"] = np.concatenate(chunks), ends
    data = h5py.File(path, "r")
    stream, ends = data["bytes"], data["ends"][...]
    row = {index: k for k, index in enumerate(source.tiles)}

    def decode(index: int, out: NDArray[np.uint8]) -> None:
        decode_jpeg(stream[ends[row[index]] : ends[row[index] + 1]], buffer=out)

    return in_threads(source, decode)


def openslide(source: Source) -> Read:
    from openslide import OpenSlide

    slide = OpenSlide(source.slide)
    corner = {index: (x, y) for index, x, y in zip(source.tiles, source.x0, source.y0, strict=True)}
    level = slide.get_best_level_for_downsample(source.downsample * 1.01)
    side = round(source.size * source.downsample / slide.level_downsamples[level])

    def decode(index: int, out: NDArray[np.uint8]) -> None:
        picture = slide.read_region(corner[index], level, (side, side)).convert("RGB")
        out[...] = picture if side == source.size else picture.resize((source.size, source.size))

    return in_threads(source, decode)


@dataclass(frozen=True)
class Reader:
    """A reader, and the packages that it needs in an environment of its own; none: it runs in wsivit's."""

    name: str
    make: Callable[[Source], Read]
    packages: tuple[str, ...] = ()


READERS = (
    Reader("bare decoder", bare),
    Reader("wsivit", wsivit),
    Reader("zarr-python, a batch by oindex", zarr_python),
    Reader("folder of JPEGs + simplejpeg", folder),
    Reader("LMDB + simplejpeg", lmdb, ("lmdb", "simplejpeg", "numpy")),
    Reader("LMDB, an array for each tile", lmdb_stacked, ("lmdb", "simplejpeg", "numpy")),
    Reader("HDF5 + simplejpeg", hdf5, ("h5py", "simplejpeg", "numpy")),
    Reader("OpenSlide on the slide", openslide),
    Reader("wsivit, one tile at a time", wsivit_singly),
    Reader("zarr-python, one tile at a time", zarr_singly),
)


def serve(name: str, source: Source) -> None:
    """Be a reader: for each line ``seed batches`` on stdin, read so many and answer with what it cost."""
    read = next(reader.make for reader in READERS if reader.name == name)(source)
    out = np.zeros((BATCH, source.size, source.size, 3), np.uint8)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        seed, batches = map(int, line.split())
        rng = np.random.default_rng(seed)
        chosen = [rng.choice(source.tiles, BATCH, replace=len(source.tiles) < BATCH) for _ in range(batches)]
        wall, cpu = time.perf_counter(), time.process_time()
        for indexes in chosen:
            read(indexes, out)
        cost = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "sum": int(out.sum(dtype=np.int64)),
        }
        print(json.dumps(cost), flush=True)


# The host


@dataclass
class Server:
    """A reader's process, and what each turn of it cost."""

    reader: Reader
    process: subprocess.Popen[str]
    turns: list[dict[str, float]] = field(default_factory=list)

    def say(self, text: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.reader.name}: {self.process.wait()}")
        return json.loads(line)

    def rate(self, clock: str, batches: int) -> float:
        return BATCH * batches / median(turn[clock] for turn in self.turns)


def python_for(reader: Reader, cache: Path) -> Path:
    """Make the reader's environment; CalledProcessError when that fails."""
    if not reader.packages:
        return Path(sys.executable)
    venv = cache / "-".join(reader.packages)
    if not (venv / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([venv / "bin/python", "-m", "pip", "install", "--quiet", *reader.packages], check=True)
        (venv / "done").touch()
    return venv / "bin/python"


def start(source: Source, cache: Path, names: Iterable[str]) -> Iterator[Server]:
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    path = Path(source.scratch) / "source.json"
    path.write_text(json.dumps(vars(source)))
    for reader in READERS:
        if reader.name not in names:
            continue
        try:
            command = [python_for(reader, cache), __file__, "--serve", reader.name, path]
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{reader.name} is left out: {error}\n")
            continue
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        server = Server(reader, process)
        server.hear()
        yield server


def prepare(store: str, scratch: Path, threads: int) -> Source:
    """Unpack the store's JPEGs into a folder, from which the other formats are made."""
    from wsivit import TileStore

    opened = TileStore(store)
    (scratch / "jpeg").mkdir(parents=True, exist_ok=True)
    tiles = opened.readable.tolist()
    for index in tiles:
        (chunk,) = opened.encoded(index)
        (scratch / f"jpeg/{index}.jpg").write_bytes(chunk)
    corners = (opened.x0[tiles].tolist(), opened.y0[tiles].tolist())
    grid, slide = opened.grid, opened.parameters.slide_path
    return Source(str(store), str(scratch), slide, grid.tile_size, tiles, *corners, grid.downsample_x, threads)


def table(servers: list[Server], batches: int) -> Iterator[str]:
    """Markdown, one line per reader."""
    ours = next(server for server in servers if server.reader.make is wsivit)
    yield "| reader | tiles/s | tiles/CPU-s | wsivit is faster by (wall, CPU) |"
    yield "|---|---|---|---|"
    for server in servers:
        wall, cpu = server.rate("wall", batches), server.rate("cpu", batches)
        # The ratio of each round, then the median: what the machine does besides hits both sides of it.
        by = [
            median(theirs[clock] / mine[clock] for mine, theirs in zip(ours.turns, server.turns, strict=True))
            for clock in ("wall", "cpu")
        ]
        yield f"| {server.reader.name} | {wall:,.0f} | {cpu:,.0f} | {by[0]:.2f}x, {by[1]:.2f}x |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="a JPEG store of one chunk per tile")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the copies, on the disk to be measured")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the environments")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12, help=f"of {BATCH} tiles, in each turn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--readers", nargs="+", default=[reader.name for reader in READERS])
    options = parser.parse_args()

    source = prepare(options.store, options.scratch, options.threads)
    servers = list(start(source, options.cache.resolve(), options.readers))
    for turn in range(options.rounds + 1):
        first = turn % len(servers)
        for server in [*servers[first:], *servers[:first]]:
            cost = server.say(f"{turn} {options.batches}\n")
            if turn:  # the first round warms up
                server.turns.append(cost)
        sys.stderr.write(f"round {turn} of {options.rounds}\n")
    print("\n".join(table(servers, options.batches)))
    for server in servers:
        server.process.stdin.close()  # type: ignore[union-attr]
        server.process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Source(**json.loads(Path(sys.argv[3]).read_text())))
    else:
        main()
