"""Memory is bounded for each worker: a slide that takes too much fails by itself, and no worker waits for ever."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image
from support.small_slides import tissue_picture, write_slide

from wsivit.cohort import Cohort, CohortOptions
from wsivit.cohort.cohort_layout import CohortLayout
from wsivit.cohort.job_log import JobOutcome
from wsivit.cohort.jobs import Job, JobRunner, run_jobs
from wsivit.cohort.tasks import VerifyTask
from wsivit.slide_list import SlideRow
from wsivit.tiling import TileOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
LIMIT_MB = 450
OPTIONS = TileOptions(mpp=2.0)


def test_a_hog_fails_by_itself(tmp_path: Path) -> None:
    for k in range(6):
        write_slide(tmp_path / f"{k}.tiff", tissue_picture(700, 600, k))
    Image.new("RGB", (13_000, 13_000), (200, 120, 160)).save(tmp_path / "hog.png")  # 507 MB as pixels
    lines = [f"{k}.tiff,0.5" for k in range(3)] + ["hog.png,0.5"] + [f"{k}.tiff,0.5" for k in range(3, 6)]
    (tmp_path / "slides.csv").write_text("\n".join(["path,slide_mpp", *lines]))
    many = CohortOptions(workers=2, worker_memory=f"{LIMIT_MB}MB")
    done = Cohort(tmp_path / "slides.csv", tmp_path / "out", many).tile(OPTIONS)
    states = {record.slide_id: record.state for record in done.records}
    assert states == {**{str(k): "done" for k in range(6)}, "hog": "failed"}
    reason = next(record.reason for record in done.records if record.slide_id == "hog")
    assert "more memory than a worker may have (--worker-memory)" in reason
    # Given more, it is done, and the others are not done again.
    more = Cohort(tmp_path / "slides.csv", tmp_path / "out").tile(OPTIONS)
    assert [job.slide.id for job in more.jobs] == ["hog"]
    assert {record.state for record in more.records} == {"done"}


KEPT: list[bytearray] = []


@dataclass(frozen=True)
class KeepingTask(VerifyTask):
    """Takes most of a worker's memory at the first slide, and keeps it, as a model would."""

    def do(self, slide: SlideRow, layout: CohortLayout, *, rebuild: bool) -> JobOutcome:
        if not KEPT:
            size = int(LIMIT_MB * 1e6 * 0.88) - psutil.Process().memory_info().rss
            KEPT.append(bytearray(b"x") * size)
        return JobOutcome()


def test_a_worker_that_needs_most_of_its_memory_goes_on(tmp_path: Path) -> None:
    jobs = [Job(SlideRow(f"s{k}", path=f"/none/{k}.svs"), "new") for k in range(40)]
    tree = CohortLayout(tmp_path)
    tree.add_slides([job.slide for job in jobs])
    many = CohortOptions(workers=1, worker_memory=f"{LIMIT_MB}MB")
    runner = JobRunner(KeepingTask(), tree)
    records = list(run_jobs(runner.do, runner.end, jobs, many, tree))
    assert [record.state for record in records] == ["done"] * 40
