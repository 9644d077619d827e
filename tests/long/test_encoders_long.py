"""Every encoder of the registry that runs here, in the form of its repository, against its own library's forward."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.encoders import assert_is_librarys_own

from wsivit.models import Encoder, encoders

RUNNABLE = [e for e in encoders().values() if not e.refused and e.name != "ctranspath"]
"""CTransPath has a stem of our own, and a test of its own."""


@pytest.mark.parametrize("e", RUNNABLE, ids=lambda e: e.name)
def test_encoders_are_their_librarys_own(e: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    assert_is_librarys_own(e, tmp_path)
