"""One study for all tests of slide-level models: they read it, and copy what they change."""

from __future__ import annotations

import pytest
from support.patient_cohorts import Study, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = write_study(tmp_path_factory.mktemp("mil") / "study", 36, sites=2)
    made.write_labels()
    return made
