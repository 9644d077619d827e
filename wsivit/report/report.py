"""``wsivit report``: one HTML file of a run, a slide or a study."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wsivit.cohort import CohortLayout
from wsivit.errors import InputNotFoundError, UsageError
from wsivit.io import replacing
from wsivit.models import CONTRACT
from wsivit.report.names import Names
from wsivit.report.options import ReportOptions
from wsivit.report.page import Page, render
from wsivit.report.run_report import run_page
from wsivit.report.slide_report import slide_page
from wsivit.report.study_report import study_pages
from wsivit.slide_list import COHORT
from wsivit.store import TileStore


def report(
    source: str | os.PathLike[str] | TileStore | Sequence[str | os.PathLike[str] | TileStore],
    output: str | os.PathLike[str] | None = None,
    options: ReportOptions = ReportOptions(),
) -> list[Path]:
    """Write a report of a run, a tile store or a study: one HTML file that needs no network and no JavaScript.

    A run's report has its figures with intervals and the dullest baseline, errors, calibration and the surest wrong
    tiles, as ``wsivit evaluate`` measured them; a slide's has its heatmap, areas, what was left out and why, and the
    scale; a study's has every slide, failures, outliers, and labels by site. The same input gives the same bytes.

    Parameters
    ----------
    source : path or TileStore, or a sequence of these
        A run folder, a tile store, or the output of a cohort; of several each has its own file.
    output : path, optional
        The HTML file; of several sources a folder. Default: ``<name>-report.html`` in the working directory. Studies of
        more than 1,900 slides continue in ``<name>-report-2.html`` and so on.
    options : ReportOptions
        Run, class and threshold to show; pseudonyms.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputNotFoundError
        There is nothing at `source`.
    UsageError
        It is none of the three, not finished, or has no such run, class or label; two reports have one name.
    StoreError
        It is damaged.
    OutputError
        A file cannot be written.
    """
    sources = [source] if isinstance(source, str | os.PathLike | TileStore) else list(source)
    names = Names(options.pseudonyms)
    written: list[Path] = []
    for one in sources:
        pages, name = _pages(one, options, names)
        first = Path(f"{name}-report.html")
        if output is not None:
            first = Path(output) if len(sources) == 1 else Path(output) / first
        if first.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"{first}: a report is an .html file; name one with -o")
        if first in written:
            raise UsageError(f"two reports would be {first}: write each by itself, with another -o")
        written += _write(pages, first)
    return written


def _write(pages: Sequence[Page], first: Path) -> list[Path]:
    files = [first, *(first.with_name(f"{first.stem}-{k}{first.suffix}") for k in range(2, len(pages) + 1))]
    links = [(file.name, f"page {k}") for k, file in enumerate(files, 1)] if len(files) > 1 else []
    for file, page in zip(files, pages, strict=True):
        with replacing(file) as temporary:
            temporary.write_text(render(replace(page, links=links)), encoding="utf-8")
    return files


def _pages(source: str | os.PathLike[str] | TileStore, options: ReportOptions, names: Names) -> tuple[list[Page], str]:
    if isinstance(source, TileStore) or TileStore.is_store(source):
        store = source if isinstance(source, TileStore) else TileStore(source)
        page = slide_page(store, options, names)
        return [page], page.title.replace(" ", "-") if options.pseudonyms else store.parameters.slide_id
    path = Path(source)
    if (path / CONTRACT).exists():
        return [run_page(path, names)], "run" if options.pseudonyms else path.absolute().name
    layout = CohortLayout(source)
    if layout.exists:
        return study_pages(layout.root, options, names), "study" if options.pseudonyms else Path(layout.root).name
    if not path.exists():
        raise InputNotFoundError(f"{source}: there is no such run, tile store or study")
    raise UsageError(
        f"{source}: neither a run folder ({CONTRACT}), nor a tile store, nor the output of a cohort ({COHORT})"
    )
