"""The report of a study: its slides with their heatmaps, failures, outliers, labels by site, limits on tiles."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.cohort import CohortLayout, Estimate, Record, outliers, status
from wsivit.errors import StoreError, UsageError, WsivitError
from wsivit.heatmap import draw_thumbnail, read_heatmap_data, score_slide
from wsivit.report.names import Names
from wsivit.report.options import ReportOptions
from wsivit.report.page import Card, Page, Picture, Section, Table, photo
from wsivit.slide_list import SlideRow
from wsivit.store import TileStore

_THUMBNAIL = 120  # side of a slide's picture, pixels
_QUALITY = 55
STEPS = 20
"""The sliders move in so many steps from 0 to 1."""
_MOST_LEVELS = 20_000  # rows of the joint histogram: more are not for a page
_MOST_ROWS = 300
SLIDES_PER_PAGE = 1_900
"""Of about 5 kB each: a page stays below 10 MB."""


@dataclass
class _Seen:
    """What the stores of a study hold, collected one store at a time."""

    estimates: list[Estimate]
    cards: list[Card]
    levels: Counter[tuple[int, ...]]
    tiles: int = 0
    stores: int = 0


def study_pages(root: str, options: ReportOptions, names: Names) -> list[Page]:
    """Collect the report of a study; large ones have several pages, the first with all figures.

    Raises
    ------
    UsageError
        The folder is no study, or its table has no such label.
    """
    slides = CohortLayout.existing(root).stored_slides()
    records = {verb: {record.slide_id: record for record in rows} for verb, rows in status(root).items()}
    seen = _Seen([], [], Counter())
    for slide in slides:
        _look_at(slide, records, options, names, seen)
    figures = [
        _progress(records, len(slides)),
        _failures(records, names),
        _outliers(seen, names),
        *_labels(slides, options),
    ]
    title = posixpath.basename(root.rstrip("/")) if not options.pseudonyms else "study"
    failed = {name for rows in records.values() for name, record in rows.items() if record.state == "failed"}
    verdict = (
        f"{len(slides):,} slides, {seen.stores:,} with tiles, {seen.tiles:,} tiles; "
        f"{len(failed):,} slides failed in at least one step."
    )
    parts = [seen.cards[k : k + SLIDES_PER_PAGE] for k in range(0, max(len(seen.cards), 1), SLIDES_PER_PAGE)]
    pages = [Page("study", title, verdict, figures, parts[0], _filters(seen.levels))]
    pages += [Page("study", f"{title}, page {k}", verdict, [], part) for k, part in enumerate(parts[1:], 2)]
    return pages


def _look_at(
    slide: SlideRow,
    records: dict[str, dict[str, Record]],
    options: ReportOptions,
    names: Names,
    seen: _Seen,
) -> None:
    name, lines, picture = names("slide", slide.id), [], None
    try:
        store = TileStore(slide.store)
        seen.stores, seen.tiles = seen.stores + 1, seen.tiles + len(store)
        seen.estimates.append(_estimate(slide.id, store))
        seen.levels.update(_levels(store))
        lines.append(f"{len(store):,} tiles")
        picture, line = _thumbnail(store, options, name)
        lines += [line] if line else []
    except WsivitError:
        lines.append("no tiles")
    for verb, rows in records.items():
        record = rows.get(slide.id)
        if record is not None and record.state not in ("done", "not_started"):
            lines.append(f"{verb}: {record.state}")
    seen.cards.append(Card(picture, name, lines))


def _estimate(slide_id: str, store: TileStore) -> Estimate:
    thumbnail, _ = store.thumbnail
    mask, _ = store.tissue_mask
    rows, cols = (np.arange(a) * b // a for a, b in zip(thumbnail.shape[:2], mask.shape, strict=True))
    tissue: NDArray[np.uint8] = thumbnail[mask[np.ix_(rows, cols)]]
    color = tuple(tissue.mean(axis=0).tolist()) if len(tissue) else (float("nan"),) * 3
    width, height = store.parameters.slide_size
    return Estimate(slide_id, mpp=store.parameters.slide_mpp[0], pixels=width * height, color=color)


def _thumbnail(store: TileStore, options: ReportOptions, name: str) -> tuple[Picture, str]:
    """Draw the slide small, with the scores of a run over it where there are any; and say what it shows."""
    image = Image.fromarray(store.thumbnail[0])
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    runs = sorted(store.runs)
    run = options.run or (runs[0] if len(runs) == 1 else None)
    if run is None or run not in runs:
        return photo(image, f"The slide {name}", quality=_QUALITY), ""
    try:
        data = read_heatmap_data(store, run)
        main = data.class_index(options.class_name)
    except (StoreError, UsageError):
        return photo(image, f"The slide {name}", quality=_QUALITY), ""
    score = score_slide(data, options.threshold)[main]
    alt = f"Probability of {score.class_name} over the slide {name}"
    picture = photo(draw_thumbnail(data, _THUMBNAIL, score.class_name), alt, quality=_QUALITY)
    return picture, f"{score.class_name}: {score.area_fraction:.0%} of the area"


def _progress(records: dict[str, dict[str, Record]], slides: int) -> Section:
    states = ("done", "partial", "failed", "skipped", "running", "interrupted", "not_started")
    rows = []
    for verb, of_slides in records.items():
        counts = Counter[str](record.state for record in of_slides.values())
        counts["not_started"] += slides - len(of_slides)
        rows.append([verb, *(f"{counts[state]:,}" for state in states)])
    header = ("step", *(state.replace("_", " ") for state in states))
    return Section("Progress", tables=[Table(header, rows, "slides by state")])


def _failures(records: dict[str, dict[str, Record]], names: Names) -> Section:
    reasons: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    warnings: defaultdict[str, list[str]] = defaultdict(list)
    for verb, of_slides in records.items():
        for record in of_slides.values():
            slide = names("slide", record.slide_id)
            if record.state == "failed":
                # With pseudonyms the reason goes: it names the file.
                reasons[verb, _reason(record, names)].append(slide)
            if record.warning:
                warnings["a warning" if names.hidden else record.warning].append(slide)
    rows = [
        [verb, reason, f"{len(slides):,}", _some(slides)]
        for (verb, reason), slides in sorted(reasons.items(), key=lambda entry: -len(entry[1]))[:_MOST_ROWS]
    ]
    doubtful = [[text, f"{len(slides):,}", _some(slides)] for text, slides in sorted(warnings.items())[:_MOST_ROWS]]
    tables = [Table(("step", "reason", "slides", "which"), rows, "failures")] if rows else []
    if doubtful:
        tables.append(Table(("warning", "slides", "which"), doubtful, "done, but suspicious"))
    return Section("Failures", [] if tables else ["No slide failed, and none has a warning."], tables=tables)


def _reason(record: Record, names: Names) -> str:
    if names.hidden:
        return f"exit code {record.exit_code}"
    # The same fault of many slides is one row: what is before the first colon is their own path.
    path, _, rest = record.reason.partition(": ")
    return rest if record.slide_id in path and rest else record.reason


def _some(slides: Sequence[str]) -> str:
    return ", ".join(slides[:5]) + (f" and {len(slides) - 5:,} more" if len(slides) > 5 else "")


def _outliers(seen: _Seen, names: Names) -> Section:
    unlike = outliers(seen.estimates)
    rows = [[names("slide", slide), "; ".join(why)] for slide, why in list(unlike.items())[:_MOST_ROWS]]
    text = [] if rows else ["No slide stands out in scale, size or stain (with fewer than five slides none can)."]
    return Section("Unlike the others", text, tables=[Table(("slide", "how"), rows)] if rows else [])


def _labels(slides: Sequence[SlideRow], options: ReportOptions) -> Iterator[Section]:
    """Compare the label of slides with their site and scanner."""
    label = options.label
    if label is None:
        label = next((name for name in slides[0].values if name.lower() in ("label", "class", "diagnosis")), None)
    elif label not in slides[0].values:
        raise UsageError(f"the study's table has no column {label}; it has {', '.join(slides[0].values) or 'none'}")
    if label is None:
        return
    for kind in ("site", "scanner"):
        pairs = Counter((getattr(slide, kind), slide.values.get(label, "")) for slide in slides if getattr(slide, kind))
        if not pairs:
            continue
        places, values = sorted({place for place, _ in pairs}), sorted({value for _, value in pairs})
        rows = [[place, *(f"{pairs[place, value]:,}" for value in values)] for place in places]
        alone = [p for p in places if sum(pairs[p, v] > 0 for v in values) == 1]
        warnings = []
        if len(values) > 1 and alone:
            few = f"{len(alone)} of {len(places)} {kind}s have one value of {label} only"
            warnings.append(f"{few}: a model can learn the {kind} instead.")
        header = (kind, *(value or "(none)" for value in values))
        yield Section(f"{label} by {kind}", (), warnings, [Table(header, rows, "slides")])


def _levels(store: TileStore) -> Counter[tuple[int, ...]]:
    """Count tiles by their shares, in steps in which the limits of `wsivit tile` decide exactly."""
    # Compared as `tile` compares: shares are float32, and so are the limits then.
    limits, qc = (np.arange(STEPS + 1) / STEPS).astype(np.float32), store.qc
    none = np.zeros(len(store), np.float32)
    tissue = np.searchsorted(limits, store.tissue_fraction, side="right") - 1
    columns = [tissue, *(np.searchsorted(limits, np.nan_to_num(qc.get(name, none))) for name in LIMITS[1:])]
    levels, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    return Counter({tuple(level): int(count) for level, count in zip(levels.tolist(), counts, strict=True)})


LIMITS = ("tissue", "pen", "blur", "fold", "fat")
"""What the sliders limit: tissue from below, the others from above."""


def _filters(levels: Counter[tuple[int, ...]]) -> dict[str, Any] | None:
    if not levels or len(levels) > _MOST_LEVELS:
        return None
    limits = [
        (name, {"kind": "least" if name == "tissue" else "most", "start": 0 if name == "tissue" else STEPS,
                "text": "least tissue" if name == "tissue" else f"most {name}"})
        for name in LIMITS
    ]  # fmt: skip
    rows = [[*level, count] for level, count in sorted(levels.items())]
    data = {"names": list(LIMITS), "steps": STEPS, "rows": rows}
    return {"limits": limits, "steps": STEPS, "data": data, "total": f"{sum(levels.values()):,}"}
