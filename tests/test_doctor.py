"""The doctor finds what works, and what was broken on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.cli_helpers import wsivit_
from test_package import HEAVY

import wsivit
from wsivit.doctor import Diagnosis, Finding


def found(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def test_all_is_well_here_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    diagnosis = wsivit.doctor()
    assert diagnosis.sound, [f for f in diagnosis.findings if f.state == "broken"]
    names = found(diagnosis)
    assert names["openslide"].text.startswith("opens a slide and reads its pixels; 0.5")
    assert {"native", "tiffslide", "JPEG (simplejpeg)", "zstd (imagecodecs)", "numpy", "GPU", "h5"} <= set(names)
    assert [*(tmp_path / "temporary").iterdir(), *(tmp_path / "here").iterdir()] == []


def test_what_is_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecodecs.zstd_decode", lambda data: (_ for _ in ()).throw(RuntimeError("no zstd today")))
    monkeypatch.setattr(
        "wsivit.slide.readers.tiffslide.TiffSlideBackend.block", lambda *_: np.zeros((128, 128, 3), np.uint8)
    )
    diagnosis = wsivit.doctor()
    assert not diagnosis.sound
    names = found(diagnosis)
    assert "no zstd today" in names["zstd (imagecodecs)"].text
    assert names["tiffslide"].state == "broken" and "another picture" in names["tiffslide"].text
    assert names["native"].state == "ok"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsivit import doctor as verb

    module = sys.modules[verb.__module__]
    version = module.installed_version
    monkeypatch.setattr(module, "installed_version", lambda name: None if name in ("timm", "h5py") else version(name))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    names = found(wsivit.doctor())
    assert (names["timm"].state, names["timm"].text) == ("missing", "not installed: pip install timm")
    assert (names["h5"].state, names["h5"].text) == ("note", "lacks h5py: pip install 'wsivit[h5]'")


def test_the_command_tells_it_and_its_exit_code_too(tmp_path: Path) -> None:
    done = wsivit_("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all that is needed works\n")
    found = json.loads(wsivit_("doctor", "--json", cwd=tmp_path).stdout)
    assert {entry["state"] for entry in found} <= {"ok", "note"}
    broken = "import simplejpeg, sys; del simplejpeg.encode_jpeg; sys.argv = ['wsivit', 'doctor']; "
    broken += "import wsivit.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", broken], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "broken   codec    JPEG (simplejpeg): AttributeError" in done.stdout


def test_torch_is_not_loaded_unless_asked_for(tmp_path: Path) -> None:
    code = f"import wsivit, sys; wsivit.doctor(); print(*(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
    assert "computes on" in found(wsivit.doctor(gpu=True))["torch"].text or Path("/dev/nvidiactl").exists()
