"""Is evidence faithful? Tiles are deleted, those of most evidence first, and the logit must fall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsivit.mil.aggregators import Aggregator
from wsivit.mil.bags import Tiles
from wsivit.mil.member import slide_logits
from wsivit.mil.objective import Floats
from wsivit.mil.tile_evidence import Method, methods_of, tile_evidence

KEPT = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)
"""Shares of the tiles that are left at each step."""
MOST_TILES = 2048
"""Larger bags are cut to so many tiles, which bounds the time."""


def deletion_areas(network: Aggregator, tiles: Tiles, evidence: Floats, output: int, seed: int = 0) -> Floats:
    """Return the mean logit while tiles are deleted: most evidence first, least first, and at random; float64 (3,).

    Parameters
    ----------
    network : Aggregator
    tiles : float16 (n, d)
    evidence : ndarray (n,)
        For the logit `output`.
    output : int
    seed : int
        Of the random order.
    """
    ascending = np.argsort(evidence, kind="stable")
    orders = ascending, ascending[::-1], np.random.default_rng(seed).permutation(len(tiles))
    curves = []
    for order in orders:  # what is last is deleted first
        kept = (order[: max(1, round(share * len(tiles)))] for share in KEPT)
        curves.append([slide_logits(network, tiles[np.sort(places)])[output] for places in kept])
    return np.trapezoid(np.array(curves)[:, ::-1], KEPT[::-1], axis=1) / (KEPT[0] - KEPT[-1])  # type: ignore[no-any-return]


def faithfulness(network: Aggregator, slides: Sequence[Tiles], seed: int = 0) -> dict[Method, float]:
    """Return, of each method, how much lower the logit is than at random while the tiles of most evidence go first.

    In logit units, the mean over slides and over both ends: what the tiles of most evidence take away, and what those
    of least evidence leave. 0 is no better than a random order.

    Parameters
    ----------
    network : Aggregator
    slides : sequence of float16 (n, d)
        Slides that the network did not learn from.
    """
    result: dict[Method, float] = {}
    for method in methods_of(network):
        gains = []
        for number, slide in enumerate(slides):
            tiles = np.asarray(slide[:MOST_TILES])
            evidence = tile_evidence(network, tiles, method)
            if evidence is None or len(tiles) < 2:
                continue
            output = int(np.argmax(slide_logits(network, tiles)))
            most, least, random = deletion_areas(
                network, tiles, evidence[:, output].astype(float), output, seed + number
            )
            gains.append(((random - most) + (least - random)) / 2)
        if gains:
            result[method] = float(np.mean(gains))
    return result


def best_method(scores: dict[Method, float]) -> Method:
    """Return the method to show: the exact contributions, unless another one is more faithful by a tenth."""
    # Attention has no sign and no unit: it is never the map of evidence, whatever its order is worth.
    signed = {name: value for name, value in scores.items() if name != "attention"}
    exact: Method = "contribution"
    if exact not in signed:
        return exact
    best = max(signed, key=lambda name: signed[name])
    return best if signed[best] > signed[exact] + 0.1 * abs(signed[exact]) else exact
