"""The figures of a slide-level run: as text, as JSON, as pictures, and as a card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsivit.evaluation import Measurement, draw_confusion, draw_reliability, draw_roc, new_figure
from wsivit.io import LocalFiles
from wsivit.mil.objective import Floats, probabilities
from wsivit.mil.patient_statistics import Chance, Figures, chance_level
from wsivit.mil.patients import PatientCohort
from wsivit.mil.site_check import SiteCheck
from wsivit.mil.slide_run import REPORT, SlideRun
from wsivit.mil.survival import kaplan_meier, log_rank

_NAMES = {"auroc": "AUROC", "r": "correlation r", "c_index": "C-index"}


@dataclass(frozen=True)
class PatientReport:
    """What was measured on out-of-fold predictions; `str` gives it for people.

    Attributes
    ----------
    patients, slides, tiles : int
    counts : dict of str to int
        Patients of each class.
    left_out : dict of str to int
        How many patients and slides were left out, by the reason.
    figures : Figures
    baseline : Figures or None
        Of the linear baseline; None where that is what was trained.
    baseline_p : float or None
        Of model and baseline being equally good.
    chance : Chance
        Of labels permuted against the predictions.
    refitted : Chance or None
        Of the linear baseline, fitted to permuted labels.
    sites : SiteCheck or None
        None with fewer than two known sites.
    before_calibration : dict or None
        Metrics without the temperatures.
    faithfulness : dict of str to float
        Of each method of evidence, in logit units.
    """

    patients: int
    slides: int
    tiles: int
    counts: dict[str, int]
    left_out: dict[str, int]
    figures: Figures
    baseline: Figures | None
    baseline_p: float | None
    chance: Chance
    refitted: Chance | None
    sites: SiteCheck | None
    before_calibration: dict[str, float] | None
    faithfulness: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it; numbers that are not finite as null."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain

    def __str__(self) -> str:
        name = next(iter(self.figures.metrics))
        lines = [self._cohort()]
        lines += [f"left out {count} {why}" for why, count in self.left_out.items()]
        lines.append(f"{_NAMES[name]:8} {_with_interval(self.figures, name)}{self._spread()}")
        if self.baseline is not None and self.baseline_p is not None:
            apart = "no difference shown" if self.baseline_p >= 0.05 else "they differ"
            lines.append(
                f"baseline {_with_interval(self.baseline, name)}: mean of features, linear; p = {self.baseline_p:.3g} "
                f"by swapping patients, {apart}"
            )
        luck, refitted = self.chance, self.refitted
        lines.append(f"chance   {luck.low:.3f} to {luck.high:.3f} with permuted labels, p = {luck.p_value:.3g}")
        if refitted is not None:
            lines.append(
                f"         {refitted.low:.3f} to {refitted.high:.3f} for the baseline, fitted to permuted labels "
                f"{refitted.refitted} times"
            )
        lines += self._calibration()
        if self.sites is not None:
            lines += _site_lines(self.sites, name, self.figures.value)
        if self.faithfulness:
            each = ", ".join(f"{method} {value:+.2f}" for method, value in self.faithfulness.items())
            lines.append(f"evidence faithful by deletion, in logits above a random order: {each}")
        return "\n".join(lines)

    def _cohort(self) -> str:
        classes = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        sites = f", {len(self.sites.sites)} sites" if self.sites is not None else ""
        patients = f"{self.patients} patients{f' ({classes})' if classes else ''}"
        return f"{patients}, {self.slides} slides, {self.tiles} tiles{sites}"

    def _spread(self) -> str:
        values = self.figures.per_repeat
        return "" if len(values) < 2 else f"; {min(values):.3f} to {max(values):.3f} over {len(values)} repeats"

    def _calibration(self) -> list[str]:
        before, after = self.before_calibration, self.figures.metrics
        if before is None:
            return []
        return [
            f"calibration error {before['ece']:.3f} before, {after['ece']:.3f} after; log loss "
            f"{before['log_loss']:.3f}, {after['log_loss']:.3f}"
        ]


def _with_interval(figures: Figures, name: str) -> str:
    low, high = figures.intervals.get(name, (float("nan"), float("nan")))
    return f"{figures.metrics[name]:.3f} (95 % interval {low:.3f} to {high:.3f})"


def _site_lines(sites: SiteCheck, name: str, value: float) -> list[str]:
    lines = [
        f"sites    told from the features with accuracy {sites.accuracy:.2f} (chance {sites.chance:.2f}, p = "
        f"{sites.accuracy_p:.3g}); label follows site: V = {sites.association:.2f}, p = {sites.association_p:.3g}"
    ]
    if sites.leave_one_out_mean is not None:
        each = ", ".join(f"{site} {part:.3f}" for site, part in sites.leave_one_out.items())
        lines.append(f"         leave one site out, baseline: {_NAMES[name]} {sites.leave_one_out_mean:.3f} ({each})")
    if sites.confounded:
        lines.append(
            f"WARNING  the label follows the site and the features show the site: {_NAMES[name]} {value:.3f} may be "
            "the site's; believe the leave-one-site-out row, or balance the sites"
        )
    return lines


def finite(value: Any) -> Any:
    """Return a value with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write_report(folder: Path, run: SlideRun, cohort: PatientCohort, report: PatientReport, logits: Floats) -> None:
    """Write pictures, ``report.json`` and the card; `logits` (n, outputs) are out-of-fold."""
    if cohort.classes:
        measured = Measurement(probabilities(logits), cohort.targets.astype(np.int64))
        draw_roc(folder / "roc.png", measured, cohort.classes)
        draw_reliability(folder / "reliability.png", measured)
        draw_confusion(folder / "confusion.png", measured, cohort.classes)
    elif cohort.kind == "survival":
        draw_survival(folder / "survival.png", cohort, logits[:, 0])
    files = LocalFiles(folder)
    files.write(REPORT, [(json.dumps(report.to_dict(), indent=2) + "\n").encode()])
    files.write("README.md", [_card(folder.name, run, report).encode()])


def draw_survival(path: Path, cohort: PatientCohort, risk: Floats, split: float | None = None) -> None:
    """Draw Kaplan-Meier curves of the patients above and below the median risk, with the log-rank test."""
    high = risk > (np.median(risk) if split is None else split)
    figure, axis = new_figure(4.8, 4.0)
    for chosen, name in ((high, "higher risk"), (~high, "lower risk")):
        times, share = kaplan_meier(cohort.targets[chosen], cohort.events[chosen])
        axis.step(times, share, where="post", label=f"{name}, {chosen.sum()} patients")
    _, p_value = log_rank(cohort.targets, cohort.events, high)
    axis.set(xlabel=cohort.label, ylabel="share without event", ylim=(0, 1.02))
    axis.set_title(f"log-rank p = {p_value:.3g}", fontsize=10)
    axis.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)


def _card(name: str, run: SlideRun, report: PatientReport) -> str:
    what = f"tell {', '.join(run.classes)}" if run.classes else f"predict {run.label}"
    warned = "\n\nChance level of the first figure: " + f"{chance_level(run.kind):g}."
    return f"""---
library_name: wsivit
tags: [histopathology, whole-slide-imaging, multiple-instance-learning, wsivit]
---
# {name}

An ensemble of {len(run.folds)} `{run.aggregator}` models of patients, trained by wsivit {run.versions["wsivit"]} to
{what} (label `{run.label}`).

- **Input:** features `{run.encoder.name}` of tiles of {run.encoder.tile_size} x {run.encoder.tile_size} px at
  {run.encoder.mpp:.4g} microns per pixel, {run.encoder.dim} numbers each.
- **Figures** are of out-of-fold predictions: each patient is measured by members that never saw it.

```
{report}
```{warned}

Figures of one cohort say little about other hospitals, scanners and stains. Not a medical device.

```
wsivit predict {name} slide.svs
```
"""
