"""The wheel alone, in a fresh environment away from the checkout, runs the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import wsivit

ROOT = Path(__file__).parents[2]


def test_the_wheel_alone_runs_the_demo(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.startswith(f"wsivit-{wsivit.__version__}-")
    run(sys.executable, "-m", "venv", tmp_path / "fresh")
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    assert run(python, "-c", "import wsivit; print(wsivit.__file__)").startswith(str(tmp_path / "fresh"))
    run(tmp_path / "fresh" / "bin" / "wsivit", "demo")
    assert (tmp_path / "wsivit-demo").is_dir()
