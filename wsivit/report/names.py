"""Names of slides and patients, or numbers in their place."""

from __future__ import annotations


class Names:
    """What slides and patients are called in a report.

    Parameters
    ----------
    pseudonyms : bool
        Replace each name by its kind and a number, in the order of first mention.
    """

    def __init__(self, pseudonyms: bool) -> None:
        self._pseudonyms = pseudonyms
        self._known: dict[tuple[str, str], str] = {}

    def __call__(self, kind: str, name: str) -> str:
        """Return what to call the slide or patient of a name."""
        if not self._pseudonyms or not name:
            return name
        return self._known.setdefault((kind, name), f"{kind} {sum(k == kind for k, _ in self._known) + 1}")

    @property
    def hidden(self) -> bool:
        """Whether names are replaced: then paths, commands and messages, which may hold them, are left out."""
        return self._pseudonyms
