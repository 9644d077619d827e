"""Ids for the slides of a cohort: from their paths, safe in file names, unique."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from wsivit.slide import slide_id


def assign_ids(paths: Sequence[tuple[str, str]], known: Mapping[str, str]) -> list[str]:
    """Derive ids from the relative paths of slides, ``a__b__c`` from ``a/b/c.svs``.

    Where two would be equal (or differ in case only), both get a short hash of the paths appended.

    Parameters
    ----------
    paths : sequence of (str, str)
        Relative path and absolute path of each slide.
    known : mapping of str to str
        Ids assigned before, by absolute path: they stay.

    Returns
    -------
    list of str
    """
    plain = [slide_id(relative.replace("/", "__")) for relative, _ in paths]
    taken = Counter(name.lower() for name in known.values())
    taken.update(name.lower() for name, (_, path) in zip(plain, paths, strict=True) if path not in known)
    ids = []
    for name, (relative, path) in zip(plain, paths, strict=True):
        digest = hashlib.sha256(f"{relative}\n{path}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
        # Not counted up: the id of a slide must not depend on which others are given with it.
        ids.append(known.get(path) or (name if taken[name.lower()] == 1 else f"{name}-{digest}"))
    return ids
