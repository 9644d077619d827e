"""The output of a cohort: one folder, or URL, with a fixed layout.

::

    cohort.csv            the slides, with all columns of their tables
    ledger.csv            the status of each slide (ledger.parquet past 10,000 lines)
    slides/<id>.zarr      tile stores, each with <id>-preview.png
    heatmaps/             pictures and their data
    runs/                 for models trained on it
    .ledger/              the records behind ledger.csv, a file for each slide and verb
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsivit.errors import UsageError
from wsivit.io import files_at, public
from wsivit.slide_list import COHORT, SlideRow, read_slides
from wsivit.tiling import TilingTarget

_COLUMNS = ("slide_id", "store", "path", "patient", "site", "split", "slide_mpp", "annotations")


class CohortLayout:
    """Where everything of a cohort is.

    Parameters
    ----------
    root : path or URL
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root).rstrip("/") or "/"
        self.root = text if "://" in text else os.path.normpath(Path(text).absolute())
        self.files = files_at(self.root)

    def __reduce__(self) -> tuple[Any, ...]:  # open files and connections stay in this process
        return CohortLayout, (self.root,)

    @classmethod
    def existing(cls, root: str | os.PathLike[str]) -> CohortLayout:
        """Return the layout of a cohort that there is; UsageError where there is none."""
        layout = cls(root)
        if not layout.exists:
            raise UsageError(f"{layout.root}: not the output of a cohort: there is no {COHORT}")
        return layout

    @property
    def exists(self) -> bool:
        """Whether this is the output of a cohort already."""
        return self.files.size(COHORT) is not None

    @property
    def heatmaps(self) -> str:
        """Folder of the pictures."""
        return posixpath.join(self.root, "heatmaps")

    def store(self, slide: SlideRow) -> str:
        """Where a slide's tiles are, or will be."""
        return slide.store or posixpath.join(self.root, "slides", f"{slide.id}.zarr")

    def target(self, slide: SlideRow) -> TilingTarget:
        """Where the tiling of a slide goes."""
        return TilingTarget(self.store(slide), posixpath.join(self.root, "slides", f"{slide.id}-preview.png"), slide.id)

    def relative(self, location: str) -> str:
        """Return a location relative to the root; unchanged where it lies elsewhere."""
        return location.removeprefix(f"{self.root}/")

    def slides(self) -> list[SlideRow]:
        """Slides of the cohort so far; none where it does not exist yet."""
        return read_slides(posixpath.join(self.root, COHORT)) if self.exists else []

    def stored_slides(self) -> list[SlideRow]:
        """Slides of the cohort so far, each with where its store is, or will be."""
        return [replace(slide, store=self.store(slide)) for slide in self.slides()]

    def ids(self) -> dict[str, str]:
        """Ids of the slides so far, by path; of those that still exist."""
        return {slide.source: slide.id for slide in self.slides() if not _is_gone(slide.source)}

    def add_slides(self, slides: Sequence[SlideRow]) -> None:
        """Add slides to the cohort.

        Raises
        ------
        UsageError
            If it holds another cohort, or another slide of the same id.
        """
        text = _table(self.merge(slides), self.root)
        # Unchanged, it is left alone: tasks of a job array all come here at once.
        if not self.exists or self.files.read(COHORT) != text:
            self.files.write(COHORT, [text])

    def merge(self, slides: Sequence[SlideRow]) -> list[SlideRow]:
        """Return the slides so far and new ones, without writing them; see `add_slides`."""
        existing = {slide.id: slide for slide in self.slides()}
        if existing and not any(slide.id in existing for slide in slides):
            raise UsageError(
                f"{self.root} holds another cohort, of {len(existing)} slides, none of which is among these: "
                "choose another output, or name the slides of both"
            )
        for slide in slides:
            old = existing.get(slide.id, slide)
            # A slide that has moved keeps its id, and so its results.
            if public(old.source) != public(slide.source) and not _is_gone(old.source):
                raise UsageError(
                    f"{self.root} holds another slide called {slide.id}: {old.source}, not {slide.source}; "
                    "choose another output, or another slide_id in a table"
                )
        return list((existing | {slide.id: slide for slide in slides}).values())


def _is_gone(path: str) -> bool:
    return "://" not in path and not Path(path).exists()


def _table(slides: Sequence[SlideRow], root: str) -> bytes:
    known = {*_COLUMNS, "slide"}
    extra = list(dict.fromkeys(name for slide in slides for name in slide.values if name.lower() not in known))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *extra], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for slide in slides:
        ours = {name: getattr(slide, name) for name in ("patient", "site", "split")}
        ours |= {name: _cell(getattr(slide, name)) for name in ("path", "annotations")}
        store = _cell((slide.store or f"slides/{slide.id}.zarr").removeprefix(f"{root}/"))
        mpp = "" if slide.mpp is None else f"{slide.mpp:.17g}"
        writer.writerow({**slide.values, **ours, "slide_id": slide.id, "store": store, "slide_mpp": mpp})
    return text.getvalue().encode()


def _cell(location: str) -> str:
    """Write a path or URL without credentials; a path that is not UTF-8 as a URL."""
    try:
        location.encode()
    except UnicodeEncodeError:
        return Path(location).as_uri()
    return public(location)
