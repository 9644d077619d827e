"""Several processes train one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.train_helpers import write_store

import wsivit
from wsivit.models.run_folder import RunMetadata


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    store = write_store(tmp_path, "one", columns=24, rows=12).path
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wsivit"]
    command += [
        "train",
        str(store),
        "--label",
        "region",
        "--model",
        "test_vit",
        "--no-pretrained",
        "--image-size",
        "48",
    ]
    command += ["--epochs", "6", "--batch-size", "8", "--lr", "2e-3", "--workers", "0", "--device", "cpu", "-q"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-o", str(tmp_path / "run")], check=True, env=environment, timeout=600)
    run = RunMetadata.read(tmp_path / "run")
    assert run.done and run.figures["test"]["accuracy"] > 0.95
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[1]) for row in rows[1:]]
    n = run.data[0]["train"]
    assert steps == [-(-n // 16) * epoch for epoch in range(1, 7)], "each step takes a batch from both"


TOLD = """
import os, sys
import wsivit
from wsivit.data.dataset import TileDataset

read = TileDataset.__getitems__


def told(self, chosen):
    with open(f"{sys.argv[2]}-{os.environ['RANK']}", "a") as file:
        file.write("".join(f"{len(self)} {i}\\n" for i in chosen))
    return read(self, chosen)


TileDataset.__getitems__ = told
options = wsivit.TrainOptions(pretrained=False, image_size=48, epochs=2, batch_size=8, workers=0, device="cpu")
wsivit.train([sys.argv[1]], model="test_vit", output=sys.argv[2], options=options)
"""


def test_two_processes_share_the_tiles_of_an_index(tmp_path: Path) -> None:
    """Together they see each tile once in an epoch, and none of them what the other sees."""
    lines = ["slide_id,store,patient,split"]
    for k, side in enumerate(("train", "train", "train", "val")):
        write_store(tmp_path, f"s{k}", columns=12, rows=6 + 2 * (side == "val"), seed=k)
        lines.append(f"s{k},s{k}.zarr,p{k},{side}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    wsivit.index([tmp_path / "cohort.csv"], tmp_path / "index.parquet", label="region")
    (tmp_path / "told.py").write_text(TOLD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "told.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["index.parquet", str(tmp_path / "run")]
    subprocess.run(command, check=True, env=environment, timeout=600, cwd=tmp_path)
    n = sum(source.get("train", 0) for source in RunMetadata.read(tmp_path / "run").data)
    seen = []
    for rank in (0, 1):
        lines = (tmp_path / f"run-{rank}").read_text().splitlines()
        seen.append([int(i) for length, i in map(str.split, lines) if int(length) == n])
    per_epoch = -(-n // 16) * 8
    assert [len(own) for own in seen] == [2 * per_epoch] * 2
    for epoch in (slice(0, per_epoch), slice(per_epoch, None)):
        first, second = (own[epoch] for own in seen)
        assert set(first) | set(second) == set(range(n))
        # The last batch is filled up with tiles that one of them saw before.
        assert len({*first} & {*second}) <= 2 * per_epoch - n
