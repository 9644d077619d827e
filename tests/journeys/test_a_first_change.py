"""A first change to the code: an export format, by what docs/architecture.md says and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from support.train_helpers import write_store

from wsivit.store import Predictions, TileStore

ROOT = Path(__file__).parents[2]
MODULE = '''"""Scores as a Markdown table."""

from __future__ import annotations

from pathlib import Path

from wsivit.heatmap.heatmap_data import HeatmapData


def write_markdown(data: HeatmapData, path: Path) -> None:
    """Write one row per tile."""
    rows = [f"| {i} | {p[0]:.2f} |" for i, p in enumerate(data.probabilities)]
    path.write_text("\\n".join([f"| tile | {data.classes[0]} |", "|---|---|", *rows, ""]))
'''


def test_an_export_format_is_three_edits(tmp_path: Path) -> None:
    # The row of the table that says how.
    row = next(
        line for line in (ROOT / "docs/architecture.md").read_text().splitlines() if "| an export format |" in line
    )
    for named in ("export_formats()", "`heatmap/export.py`", "`heatmap/options.py`", "`Format`"):
        assert named in row

    package = tmp_path / "wsivit"
    shutil.copytree(ROOT / "wsivit", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "heatmap" / "markdown.py").write_text(MODULE)
    export, options = package / "heatmap" / "export.py", package / "heatmap" / "options.py"
    entry = '        "markdown": ExportFormat(".md", (".md",), "run", "", plain(write_markdown)),\n'
    text = export.read_text().replace('        "tissue": ExportFormat(', f'{entry}        "tissue": ExportFormat(')
    place = "    from wsivit.heatmap.parquet_table import"
    assert place in text
    export.write_text(text.replace(place, f"    from wsivit.heatmap.markdown import write_markdown\n{place}", 1))
    options.write_text(options.read_text().replace('    "tissue",\n', '    "tissue",\n    "markdown",\n'))

    store = TileStore(write_store(tmp_path, "one", columns=4, rows=3).path)
    values = np.tile(np.array([0.25, 0.75], np.float32), (len(store), 1))
    store.write_predictions("vit", Predictions(values, ("stroma", "tumor")))
    command = [sys.executable, "-m", "wsivit", "export", "one.zarr", "markdown", "-o", "one.md"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.md").read_text().splitlines()[:3] == ["| tile | stroma |", "|---|---|", "| 0 | 0.25 |"]
    # Nothing else has to be told: help and the checks of options know it.
    wrong = subprocess.run([*command, "--alpha", "0.3"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (wrong.returncode, "alpha makes no difference to markdown" in wrong.stderr) == (2, True)
