"""The campaign: every real slide at hand, fifty drawn ones, the damaged corpus; every kind of worker, thrice each.

Run with ``pytest tests/long/test_cohort_long.py``; it takes half an hour. To run one kind of worker after the other
with ``-k``, name a folder in ``WSIVIT_CAMPAIGN``: the slides, and what one process makes of them, are kept there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dask_helpers import DaskProcesses, dask_processes, kill_whoever_runs, meanwhile, states, wait_for
from support.remote_helpers import Trouble, serving
from support.small_slides import SLIDES, TOOLS, tissue_picture, write_slide
from support.store_helpers import tree_digest

from wsivit.cohort import Cohort, CohortOptions
from wsivit.errors import RemoteError
from wsivit.slide import open_slide
from wsivit.slide_list import find_slides
from wsivit.store.verify import verify
from wsivit.tiling import TileOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
OPTIONS = TileOptions(mpp=2.0, mpp_tolerance=0.1)
DRAWN = int(os.environ.get("WSIVIT_DRAWN_SLIDES", "50"))
MAKE = TOOLS / "make_bad_slides.py"
GOOD = SLIDES / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("WSIVIT_CAMPAIGN")
    return Path(kept) if kept else tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def slides(folder: Path) -> Path:
    root = folder / "slides"
    if root.exists():
        return root
    root.mkdir(parents=True)
    if GOOD.exists():
        shutil.copytree(SLIDES, root / "real")
        subprocess.run([sys.executable, MAKE, "corpus", GOOD, root / "corpus"], check=True, capture_output=True)
    for k in range(DRAWN):
        (root / "drawn" / f"{k % 5}").mkdir(parents=True, exist_ok=True)
        write_slide(root / "drawn" / f"{k % 5}" / f"{k}.tiff", tissue_picture(700 + 10 * k, 600, k))
    return root


@pytest.fixture(scope="module")
def alone(slides: Path, folder: Path) -> Path:
    """What one process makes of all, which is checked by itself."""
    out = folder / "alone"
    done = Cohort(slides, out).tile(OPTIONS)
    failed = {record.slide_id for record in done.records if record.state == "failed"}
    assert not {name for name in failed if name.startswith("drawn")}
    assert all(record.reason and record.exit_code for record in done.records if record.state in ("failed", "partial"))
    assert all(record.exit_code != 1 for record in done.records), "an error that is not one of ours"
    for record in done.records:
        if record.state == "done" and record.slide_id.startswith("drawn"):
            assert verify(out / "slides" / f"{record.slide_id}.zarr") == []
    return out


def is_right(out: Path, alone: Path, slides: Path, many: CohortOptions = CohortOptions()) -> None:
    """The ledger and every store are those of one process; a second run finds it so, a third does nothing."""
    assert {k: v[0] for k, v in states(out).items()} == {k: v[0] for k, v in states(alone).items()}
    for store in (alone / "slides").glob("*.zarr"):
        assert tree_digest(out / "slides" / store.name) == tree_digest(store), store.name
    before = tree_digest(out)
    assert Cohort(slides, out, many).tile(OPTIONS).jobs == ()
    assert Cohort(slides, out).tile(OPTIONS).jobs == ()
    assert tree_digest(out) == before


def test_local_workers_one_of_which_is_killed(slides: Path, alone: Path, tmp_path: Path) -> None:
    out, many = tmp_path / "out", CohortOptions(workers=2)
    with meanwhile(lambda: kill_whoever_runs(out, "drawn__2__2", 3600)):
        Cohort(slides, out, many).tile(OPTIONS)
    is_right(out, alone, slides, many)


def test_a_separate_scheduler_with_killed_workers(slides: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def mischief(cluster: DaskProcesses) -> None:
        total = len(find_slides([slides]))
        for count in (total // 10, total // 4, total // 2):
            wait_for(lambda count=count: len(states(out)) > count, f"{count} slides were begun", 3600)
            cluster.kill_worker()
            cluster.start_worker()
        wait_for(lambda: len(states(out)) > 0.7 * total, "most slides were begun", 3600)
        cluster.kill_scheduler()

    with (
        dask_processes(tmp_path / "dask") as cluster,
        meanwhile(lambda: mischief(cluster)),
        pytest.raises(RemoteError, match="scheduler"),
    ):
        Cohort(slides, out, CohortOptions(scheduler=cluster.address)).tile(OPTIONS)
    with dask_processes(tmp_path / "next") as cluster:  # the same command resumes
        Cohort(slides, out, CohortOptions(scheduler=cluster.address)).tile(OPTIONS)
    is_right(out, alone, slides)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("cohort")
    yield "s3://cohort"
    server.stop()


def test_into_an_object_store(slides: Path, alone: Path, tmp_path: Path, bucket: str) -> None:
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    runs = [Cohort(slides, f"{bucket}/all").tile(OPTIONS) for _ in range(3)]
    assert [len(run.jobs) for run in runs] == [len(find_slides([slides])), 0, 0]
    assert {record.slide_id: record.state for record in runs[0].records} == {k: v[0] for k, v in states(alone).items()}
    assert runs[2].records == runs[1].records == runs[0].records
    system.get(f"{bucket}/all/slides/", str(tmp_path / "back"), recursive=True)
    for store in (alone / "slides").glob("*.zarr"):
        assert tree_digest(tmp_path / "back" / store.name) == tree_digest(store), store.name


def test_out_of_an_object_store(slides: Path, alone: Path, tmp_path: Path, bucket: str) -> None:
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.put(str(slides / "drawn"), f"{bucket}/slides/", recursive=True)
    runs = [Cohort(f"{bucket}/slides/drawn/", f"{bucket}/study").tile(OPTIONS) for _ in range(3)]
    assert [len(run.jobs) for run in runs] == [DRAWN, 0, 0]
    assert {record.state for record in runs[0].records} == {"done"}
    system.get(f"{bucket}/study/slides/", str(tmp_path / "back"), recursive=True)
    for store in tmp_path.glob("back/**/*.zarr"):
        assert tree_digest(store / "tiles") == tree_digest(alone / "slides" / f"drawn__{store.name}" / "tiles"), (
            store.name
        )


SECRET = "neither-in-store-nor-in-log"


def test_an_object_store_that_fails_cuts_and_stalls(
    slides: Path, alone: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slides, stores and ledger are there; all of it is finished, nothing of it lost, and no credentials told."""
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    some = sorted((slides / "drawn").rglob("*.tiff"))[:12]
    for path in some:
        system.put(str(path), f"{bucket}/few/{path.relative_to(slides / 'drawn')}")
    system.pipe(f"{bucket}/few/page.svs", b"<!DOCTYPE html><html></html>")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # all retries are ours
    monkeypatch.setenv("WSIVIT_REMOTE_TIMEOUT", "1")
    target = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    run = ["tile", f"{bucket}/few/", "-o", f"{bucket}/study", "--mpp", "2.0", "--mpp-tolerance", "0.1"]
    told = []
    with serving(Trouble, target=target, slow=2.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
        for more in ([], [], ["--workers", "2"]):
            done = subprocess.run([sys.executable, "-m", "wsivit", *run, *more], capture_output=True, text=True)
            assert done.returncode == 3, done.stderr  # of the page
            told.append(done.stdout + done.stderr)
    assert "13 slides, 13 to do" in told[0]
    assert all("13 slides, 0 to do" in text and "12 done, 1 failed" in text for text in told[1:])
    assert not any(SECRET in text for text in told)
    system.get(f"{bucket}/study/", str(tmp_path / "study"), recursive=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert {name: state for name, (state, _) in states(tmp_path / "study").items()} == {
        **{str(path.relative_to(slides / "drawn").with_suffix("")).replace("/", "__"): "done" for path in some},
        "page": "failed",
    }
    for store in (tmp_path / "study" / "slides").glob("*.zarr"):
        assert tree_digest(store / "tiles") == tree_digest(alone / "slides" / f"drawn__{store.name}" / "tiles"), (
            store.name
        )


def test_workers_in_network_namespaces(slides: Path, alone: Path, tmp_path: Path) -> None:
    """Each worker in a namespace of its own, one of which loses its network for good."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    out, few = tmp_path / "out", slides / "drawn"
    with namespaces(2) as names:
        (tmp_path / "dask").mkdir()
        cluster = DaskProcesses(tmp_path / "dask", host="10.77.0.1")
        try:
            cluster.start_scheduler()
            for name in names:
                cluster.start_worker(["ip", "netns", "exec", name])

            def cut() -> None:
                wait_for(lambda: len(states(out)) > 10, "10 slides were begun", 3600)
                subprocess.run(["ip", "link", "set", f"{names[0]}-h", "down"], check=True)

            with meanwhile(cut):
                done = Cohort(few, out, CohortOptions(scheduler=cluster.address)).tile(OPTIONS)
        finally:
            cluster.close()
    assert {record.state for record in done.records} == {"done"}
    for store in (out / "slides").glob("*.zarr"):
        assert tree_digest(store / "tiles") == tree_digest(alone / "slides" / f"drawn__{store.name}" / "tiles")
        with open_slide(few / f"{store.stem.replace('__', '/')}.tiff") as slide:
            assert verify(store, slide=slide.path) == []


class namespaces:
    """Network namespaces joined by a bridge that is 10.77.0.1 here."""

    def __init__(self, count: int) -> None:
        self.names = [f"wsivit{k}" for k in range(count)]

    def __enter__(self) -> list[str]:
        self._ip("link add wsivit-br type bridge", "addr add 10.77.0.1/24 dev wsivit-br", "link set wsivit-br up")
        for k, name in enumerate(self.names):
            self._ip(
                f"netns add {name}",
                f"link add {name}-h type veth peer name {name}-n netns {name}",
                f"link set {name}-h master wsivit-br up",
                f"-n {name} addr add 10.77.0.{k + 2}/24 dev {name}-n",
                f"-n {name} link set {name}-n up",
                f"-n {name} link set lo up",
            )
        return self.names

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            self._ip(f"netns del {name}", check=False)
        self._ip("link del wsivit-br", check=False)

    def _ip(self, *commands: str, check: bool = True) -> None:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=check, capture_output=True)
