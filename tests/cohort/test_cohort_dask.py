"""Many slides over Dask: whatever is killed, the ledger is right and the stores are those of one process."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client
from support.dask_helpers import dask_processes, kill_whoever_runs, meanwhile, states, wait_for
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import tree_digest

from wsivit.cohort import Cohort, CohortOptions
from wsivit.cohort.tasks import claim_device
from wsivit.errors import RemoteError, UsageError
from wsivit.tiling import TileOptions

# Dask's own threads and sockets end when they do.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
OPTIONS = TileOptions(tile_size=32, tissue="none", codec="zstd")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slides")
    write_slide(root / "large.tiff", tissue_picture(2600, 2400))
    for k in range(5):
        write_slide(root / f"small{k}.tiff", tissue_picture(300, 300, k))
    (root / "page.svs").write_text("<!DOCTYPE html><html></html>")
    return root


@pytest.fixture(scope="module")
def alone(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("alone")
    Cohort(slides, out).tile(OPTIONS)
    return out


def is_as_alone(out: Path, alone: Path) -> None:
    assert {name: state for name, (state, _) in states(out).items()} == {
        name: state for name, (state, _) in states(alone).items()
    }
    for store in (alone / "slides").glob("*.zarr"):
        assert tree_digest(out / "slides" / store.name) == tree_digest(store), store.name
    assert Cohort(out).tile(OPTIONS).jobs == ()


def test_a_local_cluster_whose_worker_is_killed(slides: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with meanwhile(lambda: kill_whoever_runs(out, "large")):
        done = Cohort(slides, out, CohortOptions(workers=2)).tile(OPTIONS)
    assert done.exit_code == 3  # of the page
    assert len(list((out / "slides" / "large.zarr" / "tiles").glob("c.*"))) > 1
    is_as_alone(out, alone)


def test_separate_processes_of_which_workers_and_the_scheduler_are_killed(
    slides: Path, alone: Path, tmp_path: Path
) -> None:
    """A lost worker is made up for; a lost scheduler ends the command, and the same command does the rest.

    The large slide's store has other options: it stays as it is until it is replaced at once.
    """
    out = tmp_path / "out"
    Cohort(slides, out, CohortOptions(include="large")).tile(replace(OPTIONS, tile_size=256))
    old, tiles = tree_digest(out / "slides" / "large.zarr"), out / "slides" / ".large.zarr.new" / "tiles"

    def mischief() -> None:
        wait_for(lambda: list(tiles.glob("c.*")), "a shard")
        assert tree_digest(out / "slides" / "large.zarr") == old
        os.kill(states(out)["large"][1], signal.SIGKILL)
        cluster.start_worker()
        wait_for(lambda: sum(state == "done" for state, _ in states(out).values()) > 1, "two slides are done")
        cluster.kill_scheduler()

    with dask_processes(tmp_path / "dask") as cluster:
        with Client(cluster.address) as client:
            client.wait_for_workers(2)
            devices = client.run(claim_device, f"{tmp_path}0, {tmp_path}1")
        assert sorted(devices.values()) == [f"{tmp_path}0", f"{tmp_path}1"]
        many = CohortOptions(scheduler=cluster.address)
        with meanwhile(mischief), pytest.raises(RemoteError, match=r"scheduler was lost.*repeat the same command"):
            Cohort(slides, out, many).tile(OPTIONS)
        cluster.kill_workers()
        cluster.start_scheduler()
        cluster.start_worker()
        assert Cohort(slides, out, many).tile(OPTIONS).exit_code == 3
    assert not list((out / "slides").glob(".*.new"))
    is_as_alone(out, alone)


def test_each_process_has_a_device_of_its_own_while_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [claim_device.__wrapped__(f"{tmp_path}/cuda:0, {tmp_path}/cuda:1") for _ in range(4)]
    assert [device[-1] for device in taken] == ["0", "1", "0", "1"]
    assert claim_device("cuda:1") == "cuda:1"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert claim_device.__wrapped__("auto") == "auto"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [claim_device.__wrapped__("auto") for _ in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


def test_the_tasks_of_a_job_array_process_each_slide_once(slides: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in (1, 2, 3):
        done = Cohort(slides, out, CohortOptions(array_task=f"{i}/3")).tile(OPTIONS)
        assert len(done.jobs) == done.slides in (2, 3)
    is_as_alone(out, alone)


def test_a_scheduler_that_is_not_there(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsivit.cohort.jobs.CONNECT_S", 0.3)
    with pytest.raises(UsageError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers there"):
        Cohort(slides, tmp_path / "out", CohortOptions(scheduler="tcp://127.0.0.1:9")).tile(OPTIONS)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match="no Dask scheduler"):
        Cohort(slides, tmp_path / "out").tile(OPTIONS)
    assert states(tmp_path / "out") == {}


def test_workers_of_another_version_are_refused_before_work(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsivit.__version__", "99.0")
    with pytest.raises(UsageError, match=r"has wsivit 0.* this process 99\.0.*install the same everywhere"):
        Cohort(slides, tmp_path / "out", CohortOptions(workers=1)).tile(OPTIONS)
    assert states(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": -1}, "from 0"),
        ({"workers": 2, "scheduler": "tcp://x:1"}, "not both"),
        ({"array_task": "1/2", "workers": 2}, "no workers"),
        ({"max_slides": 0}, "from 1"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CohortOptions(**wrong)  # type: ignore[arg-type]
