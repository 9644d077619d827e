"""Names for the slides of a cohort: from where they lie, safe in file names, and no two alike."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from wsivit.slide import slide_id


def assign_ids(places: Sequence[tuple[str, str]], known: Mapping[str, str]) -> list[str]:
    """Name slides by their relative paths, ``a/b/c.svs`` as ``a__b__c``.

    Where two would be called the same (or differ in case only), both have a short hash of the relative path added.

    Parameters
    ----------
    places : sequence of (str, str)
        Relative path and whole path of each slide.
    known : mapping of str to str
        Names that were given before, by whole path: they stay.

    Returns
    -------
    list of str
    """
    plain = [slide_id(relative.replace("/", "__")) for relative, _ in places]
    taken = Counter(name.lower() for name in known.values())
    taken.update(name.lower() for name, (_, path) in zip(plain, places, strict=True) if path not in known)
    return [
        known[path] if path in known else name if taken[name.lower()] == 1 else f"{name}-{_digest(relative, path)}"
        for name, (relative, path) in zip(plain, places, strict=True)
    ]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]
