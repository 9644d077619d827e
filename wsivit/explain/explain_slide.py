"""Evidence of a slide-level prediction: what each tile adds to the logit, kept in the slide's store."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.mil import METHODS, Ensemble, Method, best_method, methods_of, read_for_run, slide_logits, tile_evidence
from wsivit.models import run_name
from wsivit.store import Evidence, TileStore

AnyMethod: TypeAlias = Literal["auto", "all"] | Method
_TOLERANCE = 1e-3
"""Of the sum of contributions, as a share of the largest logit or of the sum of their sizes."""


def explain(
    run: str | os.PathLike[str] | Ensemble,
    store: str | os.PathLike[str] | TileStore,
    *,
    method: AnyMethod = "auto",
    name: str | None = None,
) -> Evidence:
    """Write what each tile adds to a slide-level prediction into the slide's store.

    ``contribution`` is exact: the values of all tiles sum to the calibrated logit of the slide, which is checked. They
    are signed, in logit units: above 0 a tile speaks for the class, below 0 against it. ``attention`` is how much
    weight a tile has, which says nothing about for or against.

    Parameters
    ----------
    run : path
        A run folder of ``wsivit train-slides``.
    store : path or TileStore
        A tile store with the run's features.
    method : {"auto", "all", "contribution", "attention", "single", "gradients"}
        ``auto`` keeps the method to show, which is the exact one unless deleting tiles showed another to be more
        faithful, and attention where there is any; ``all`` keeps every method.
    name : str, optional
        Name of the evidence in the store. Default: the run folder's.

    Returns
    -------
    Evidence

    Raises
    ------
    UsageError
        The run is not finished, or has no such method.
    StoreError
        The run or the store is damaged, or the contributions do not sum to the logit.
    StoreMismatchError
        The features of the store are not those of the run.
    """
    if method not in ("auto", "all", *METHODS):
        raise UsageError(f"unknown method {method!r}; there are auto, all, {', '.join(METHODS)}")
    ensemble = run if isinstance(run, Ensemble) else Ensemble(run)
    opened = store if isinstance(store, TileStore) else TileStore(store)
    of_run, read = ensemble.run, read_for_run(opened, ensemble.run.encoder)
    members = list(ensemble.members.values())
    possible = methods_of(members[0].network)
    shown = best_method({key: value for key, value in of_run.faithfulness.items() if key in possible})
    wanted: list[Method] = [shown, "attention"] if "attention" in possible else [shown]
    if method != "auto":
        wanted = list(possible) if method == "all" else [method]
    methods: dict[str, NDArray[np.float32]] = {}
    exact: Method = "contribution"  # always kept: it is what the sum is checked on
    for each in dict.fromkeys([exact, *wanted]):
        if each not in possible:
            raise UsageError(f"a run of {of_run.aggregator} has no {each}; it has {', '.join(possible)}")
        of_members = [tile_evidence(member.network, read.tiles, each) for member in members]
        parts = [
            # Contributions to the calibrated logit; attention has no unit and no temperature.
            values / (1.0 if each == "attention" else member.temperature)
            for values, member in zip(of_members, members, strict=True)
            if values is not None
        ]
        if len(parts) == len(members):
            values = np.full((len(opened), of_run.outputs), np.nan, np.float32)
            values[read.places] = np.mean(parts, axis=0)
            methods[each] = values
    logits = np.mean([slide_logits(member.network, read.tiles) / member.temperature for member in members], axis=0)
    _check_sum(opened, methods["contribution"][read.places], logits)
    attrs = {
        "run": run_name(ensemble.folder),
        "model_fingerprint": of_run.model_fingerprint,
        "logit": dict(zip(of_run.output_names, logits.tolist(), strict=True)),
        "shown": shown if method in ("auto", "all") else method,
        "exact": ["contribution"],
        "faithfulness": of_run.faithfulness,
        "unit": "logit" if of_run.classes else of_run.label,
    }
    evidence = Evidence(methods, of_run.output_names, attrs)
    opened.write_evidence(name or run_name(ensemble.folder), evidence)
    return evidence


def _check_sum(store: TileStore, contributions: NDArray[np.float32], logits: NDArray[np.float64]) -> None:
    """Raise StoreError unless the contributions sum to the logits."""
    total = contributions.sum(axis=0, dtype=np.float64)
    scale = np.maximum(np.abs(logits), np.abs(contributions).sum(axis=0, dtype=np.float64)).max()
    if not np.allclose(total, logits, rtol=0, atol=_TOLERANCE * max(scale, 1e-3)):
        raise StoreError(
            f"{store.url}: contributions sum to {total.round(4).tolist()}, the logit is {logits.round(4).tolist()}: "
            "this is an error of wsivit; please report it"
        )
