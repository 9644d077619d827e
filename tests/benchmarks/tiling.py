"""Tile slides with wsivit, with the readers and tilers of the field, and with the limit program, and compare.

Each tool does the whole job (find the tissue, read, encode, write) in a process of its own, the tools in turn, several
times over; the table gives medians. Needs Linux. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil

HERE = Path(__file__).parent
OPENCV, SIMPLEJPEG = "opencv-python-headless", "simplejpeg"
OPENSLIDE = ("openslide-python", "openslide-bin")


@dataclass(frozen=True)
class Tool:
    """A way to tile a slide: a driver, the packages that it needs in an environment of its own, and its setting."""

    name: str
    driver: str
    packages: tuple[str, ...] = ()
    backend: str = ""
    cpus: int | None = None

    @property
    def venv(self) -> str:
        return Path(self.driver).stem.removeprefix("run_")


HS2P = ("hs2p==6.1.0", "cucim-cu12", "pyvips", "pyvips-binary", "PyTurboJPEG<2", *OPENSLIDE)
TOOLS = (
    Tool("limit", "limit.py"),
    Tool("limit, bare", "limit.py", backend="bare"),
    Tool("wsivit", "run_wsivit.py"),
    Tool("wsivit, 1 CPU", "run_wsivit.py", cpus=1),
    Tool("microtome-wsi + simplejpeg", "peers/run_microtome.py", ("microtome-wsi==0.1.0", SIMPLEJPEG, OPENCV)),
    Tool("fastslide + simplejpeg", "peers/run_fastslide.py", ("fastslide==0.8.*", "numpy", SIMPLEJPEG, OPENCV)),
    Tool("hs2p, cuCIM", "peers/run_hs2p.py", HS2P, backend="cucim"),
    Tool("hs2p, vips", "peers/run_hs2p.py", HS2P, backend="vips"),
    Tool("TRIDENT's read loop", "peers/run_trident.py", (*OPENSLIDE, SIMPLEJPEG, OPENCV)),
    Tool("OpenSlide, processes, PIL", "peers/run_openslide.py", (*OPENSLIDE, "numpy", "pillow")),
)


@dataclass(frozen=True)
class Case:
    """One row of the comparison."""

    slide: Path
    tile_size: int
    mpp: float

    @classmethod
    def parse(cls, text: str) -> Case:
        path, tile_size, mpp = text.rsplit(":", 2)
        return cls(Path(path), int(tile_size), float(mpp))

    def __str__(self) -> str:
        return f"{self.tile_size} px at {self.mpp:g} µm/px, {self.slide.name}"


@dataclass(frozen=True)
class Run:
    """What one run of a tool cost. Times in seconds, memory in bytes of all its processes together."""

    tiles: int
    wall: float
    cpu: float
    memory: int
    note: str = ""


@dataclass
class Measured:
    """The runs of one tool on one case; `idle` are those on a tiny slide, which are all start-up."""

    runs: list[Run] = field(default_factory=list)
    idle: list[Run] = field(default_factory=list)
    skipped: str = ""

    def rate(self, clock: str) -> float:
        """Tiles per second of `clock` (``wall`` or ``cpu``), start-up taken out."""
        tiles, seconds = (
            median(getattr(run, name) for run in self.runs) - median(getattr(run, name) for run in self.idle)
            for name in ("tiles", clock)
        )
        return tiles / seconds


class JobRunner:
    """Runs tools, each in its environment."""

    def __init__(self, cache: Path, scratch: Path, workers: int) -> None:
        self.cache, self.scratch, self.workers = cache, scratch, workers
        self.broken: dict[str, str] = {}

    def prepare(self, tool: Tool) -> None:
        """Make the tool's environment, or note why it cannot be had."""
        if not tool.packages or tool.venv in self.broken:
            return
        stamp = self.cache / tool.venv / "installed.txt"
        if stamp.exists() and stamp.read_text() == "\n".join(tool.packages):
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", stamp.parent], check=True)
        install = [self.python(tool), "-m", "pip", "install", "--quiet", *tool.packages]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            self.broken[tool.venv] = f"does not install: {last_line(done.stderr)}"
        else:
            stamp.write_text("\n".join(tool.packages))

    def python(self, tool: Tool) -> str:
        return str(self.cache / tool.venv / "bin" / "python") if tool.packages else sys.executable

    def run(self, tool: Tool, case: Case) -> Run:
        """Run the tool once; `RuntimeError` with its last words if it fails."""
        output = Path(tempfile.mkdtemp(dir=self.scratch))
        workers = tool.cpus or self.workers
        command = [self.python(tool), HERE / tool.driver, case.slide, output]
        command += ["--mpp", str(case.mpp), "--tile-size", str(case.tile_size), "--workers", str(workers)]
        command += ["--backend", tool.backend] if tool.backend else []
        try:
            return measure(command, workers)
        finally:
            shutil.rmtree(output)


def measure(command: Sequence[str | Path], cpus: int) -> Run:
    """Run a driver on `cpus` CPUs and read what the system says it cost, children included."""
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.sched_setaffinity(0, sorted(everywhere)[:cpus])  # inherited
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        os.sched_setaffinity(0, everywhere)
        peak = Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        memory = max(peak.stop(), usage.ru_maxrss * 1024)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(last_line(err.read().decode(errors="replace")))
        said = json.loads(out.read().splitlines()[-1])
    return Run(said["tiles"], wall, usage.ru_utime + usage.ru_stime, memory, said["note"])


class Peak(threading.Thread):
    """Watches the memory of a process and its children: the peak of the sum of what each alone holds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.over = psutil.Process(pid), 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.05):
            try:
                family = [self.process, *self.process.children(recursive=True)]
                held = [process.memory_info() for process in family]
            except psutil.NoSuchProcess:
                continue
            # Pages shared with the parent (a fork's, a mapped file's) count once: with the largest process.
            self.peak = max(self.peak, sum(m.rss - m.shared for m in held) + max(m.shared for m in held))

    def stop(self) -> int:
        self.over.set()
        self.join()
        return self.peak


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:200]


def compare(bench: JobRunner, tools: Sequence[Tool], case: Case, tiny: Path, repeats: int) -> dict[str, Measured]:
    """Run every tool `repeats` times on a case and on the tiny slide, in turn, each round beginning with another."""
    found = {tool.name: Measured(skipped=bench.broken.get(tool.venv, "")) for tool in tools}
    idle = Case(tiny, case.tile_size, case.mpp)
    for turn in range(repeats):
        for tool in [*tools[turn % len(tools) :], *tools[: turn % len(tools)]]:
            measured = found[tool.name]
            if measured.skipped:
                continue
            try:
                measured.idle.append(bench.run(tool, idle))
                measured.runs.append(bench.run(tool, case))
            except RuntimeError as error:
                measured.skipped = f"fails: {error}"
        sys.stderr.write(f"{case}: round {turn + 1} of {repeats}\n")
    return found


def table(case: Case, found: dict[str, Measured]) -> Iterator[str]:
    """Markdown, one line per tool."""
    yield f"**{case}**\n"
    yield "| tool | tiles | tiles/s | tiles/CPU-s | wsivit is faster by (wall, CPU) | of the limit (CPU) | peak MB |"
    yield "|---|---|---|---|---|---|---|"
    done = {name: measured for name, measured in found.items() if not measured.skipped}
    for name, measured in done.items():
        run = measured.runs[0]
        wall, cpu = measured.rate("wall"), measured.rate("cpu")
        by = (f"{done['wsivit'].rate(clock) / measured.rate(clock):.2f}x" for clock in ("wall", "cpu"))
        faster = ", ".join(by) if "wsivit" in done and name != "wsivit" else ""
        share = f"{cpu / done['limit'].rate('cpu'):.2f}" if "limit" in done else ""
        memory = median(run.memory for run in measured.runs) / 1e6
        label = f"{name} ({run.note})" if run.note else name
        yield f"| {label} | {run.tiles:,} | {wall:,.0f} | {cpu:,.0f} | {faster} | {share} | {memory:,.0f} |"
    yield from (f"\nSkipped: {name}: {measured.skipped}" for name, measured in found.items() if measured.skipped)
    startup = (f"{name} {median(run.cpu for run in measured.idle):.2f}" for name, measured in done.items())
    yield f"\nTaken out as start-up, CPU seconds: {', '.join(startup)}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=Case.parse, metavar="SLIDE:TILE_SIZE:MPP")
    parser.add_argument("--tiny", type=Path, required=True, help="a slide of a few tiles: tiling it is start-up")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the peers' environments (5 GB)")
    parser.add_argument("--scratch", type=Path, help="folder for what is written, on the disk to be measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tools", nargs="+", help=f"of: {', '.join(tool.name for tool in TOOLS)}")
    parser.add_argument("--json", type=Path, help="every run, for another look")
    options = parser.parse_args()

    tools = [tool for tool in TOOLS if not options.tools or tool.name in options.tools]
    bench = JobRunner(options.cache.resolve(), options.scratch or Path(tempfile.gettempdir()), options.workers)
    for tool in tools:
        bench.prepare(tool)
    everything = {}
    for case in options.cases:
        found = compare(bench, tools, case, options.tiny, options.repeats)
        print("\n".join(table(case, found)), flush=True)
        everything[str(case)] = {name: asdict(measured) for name, measured in found.items()}
        if options.json:
            options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
