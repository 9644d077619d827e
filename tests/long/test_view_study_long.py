"""The viewer with a thousand slides: a list that stays quick and small."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.heatmap_helpers import make_store
from support.viewer_helpers import READY, Page, axe_problems, chromium, viewing

from wsivit.io import files_at
from wsivit.store import zarr_metadata
from wsivit.store.schema import read_root

SLIDES = 1000
NAMES = "[...document.querySelectorAll('#study-list strong')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand stores of as many slides: one, under as many names and fingerprints."""
    folder = tmp_path_factory.mktemp("study")
    first = make_store(folder / "slide-0000.zarr", size0=(1024, 768)).path
    files = files_at(first)
    document, root = zarr_metadata.read_document(files, ""), read_root(files)
    for k in range(1, SLIDES):
        copy = folder / f"slide-{k:04}.zarr"
        shutil.copytree(first, copy, copy_function=os.link)
        named = {**root["parameters"], "slide_id": copy.stem, "slide_fingerprint": f"sha256:{k}"}
        zarr_metadata.write_document(files_at(copy), "", document, {**root, "parameters": named})
    return folder


def test_a_study_of_a_thousand_slides(driver: Any, cohort: Path) -> None:
    with viewing(cohort) as client:
        page = Page(driver, client)
        driver.get(client.view.url)
        page.wait("return window.wsivit?.study.complete")
        assert page.text("study-count") == "1000 of 1000 slides"
        assert 5 < page.js("return document.querySelectorAll('#study-list li').length") < 60
        page.choose("study-sort", "runs/run-1/share")
        page.choose("study-find", "0770")
        assert page.js("return [...document.querySelectorAll('#study-list strong')].map(e => e.textContent)") == [
            "slide-0770"
        ]
        page.choose("study-find", "")
        page.choose("study-sort", "name")
        page.js("const s = document.getElementById('study-scroll'); s.scrollTop = s.scrollHeight")
        page.wait(
            "return [...document.querySelectorAll('#study-list strong')].some(e => e.textContent === 'slide-0999')"
        )
        assert axe_problems(page) == []
        page.js(
            "[...document.querySelectorAll('#study-list a')].find(a => a.textContent.includes('slide-0998')).click()"
        )
        page.wait(READY)
        assert page.text("title") == "slide-0998"
        page.keys("n")
        page.wait("return document.getElementById('title').textContent === 'slide-0999'")
        page.wait(READY)
        page.keys("s")
        page.wait("return !document.getElementById('study').hidden")
        page.silent()
        driver.get("about:blank")
