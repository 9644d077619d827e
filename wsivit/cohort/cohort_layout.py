"""The output of a cohort: one folder, or URL, of a fixed shape.

::

    cohort.csv            the slides, with all that is known about each
    ledger.csv            what was done with each (ledger.parquet past 10,000 lines)
    slides/<id>.zarr      tile stores, each with <id>-preview.png beside it
    heatmaps/             pictures and their data
    runs/                 for the models trained on it
    .ledger/              the ledger as it grows, a record for each slide and verb
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsivit.errors import UsageError
from wsivit.io import files_at, public
from wsivit.slide_list import CohortSlide, read_slides
from wsivit.tiling import TilingTarget

COHORT = "cohort.csv"
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

    def __reduce__(self) -> tuple[Any, ...]:
        return CohortLayout, (self.root,)

    @property
    def is_there(self) -> bool:
        """Whether this is the output of a cohort already."""
        return self.files.size(COHORT) is not None

    @property
    def heatmaps(self) -> str:
        """Folder of the pictures."""
        return posixpath.join(self.root, "heatmaps")

    def store(self, slide: CohortSlide) -> str:
        """Where a slide's tiles are, or will be."""
        return slide.store or posixpath.join(self.root, "slides", f"{slide.id}.zarr")

    def place(self, slide: CohortSlide) -> TilingTarget:
        """Where the tiling of a slide goes."""
        return TilingTarget(self.store(slide), posixpath.join(self.root, "slides", f"{slide.id}-preview.png"), slide.id)

    def slides(self) -> list[CohortSlide]:
        """Slides of the cohort so far; none where there is none yet."""
        return read_slides(posixpath.join(self.root, COHORT)) if self.is_there else []

    def names(self) -> dict[str, str]:
        """Names of the slides so far, by where they are; of those that are there still."""
        return {slide.source: slide.id for slide in self.slides() if not _is_gone(slide.source)}

    def add_slides(self, slides: Sequence[CohortSlide]) -> None:
        """Add slides to the cohort.

        Raises
        ------
        UsageError
            If another cohort is there, or another slide of the same name.
        """
        merged = self.merged(slides)
        text = _table(merged, self.root)
        if not self.is_there or self.files.read(COHORT) != text:
            self.files.write(COHORT, [text])

    def merged(self, slides: Sequence[CohortSlide]) -> list[CohortSlide]:
        """The cohort with some slides added; see `add_slides`."""
        there = {slide.id: slide for slide in self.slides()}
        if there and not any(slide.id in there for slide in slides):
            raise UsageError(
                f"{self.root} holds another cohort, of {len(there)} slides, none of which is among these: "
                "choose another output, or name the slides of both"
            )
        for slide in slides:
            old = there.get(slide.id, slide)
            if public(old.source) != public(slide.source) and not _is_gone(old.source):
                raise UsageError(
                    f"{self.root} holds another slide called {slide.id}: {old.source} there, {slide.source} asked for; "
                    "choose another output, or another slide_id in a table"
                )
        return list((there | {slide.id: slide for slide in slides}).values())


def _is_gone(path: str) -> bool:
    return "://" not in path and not Path(path).exists()


def _table(slides: Sequence[CohortSlide], root: str) -> bytes:
    known = {*_COLUMNS, "path", "slide"}
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


def _cell(place: str) -> str:
    """Write a path or URL, as a URL where it is no text, and without credentials."""
    try:
        place.encode()
    except UnicodeEncodeError:
        return Path(place).as_uri()
    return public(place)
