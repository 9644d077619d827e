"""Several processes train one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from train_helpers import write_store

from wsivit.runs import Contract


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
    run = Contract.read(tmp_path / "run")
    assert run.done and run.validation["accuracy"] > 0.95
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[1]) for row in rows[1:]]
    n = run.data[0]["train"]
    assert steps == [-(-n // 16) * epoch for epoch in range(1, 7)], "each step takes a batch from both"
