"""What the metadata of runs of both levels have in common: written last, and compared before a run is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from wsivit.errors import OutputExistsError, shorten
from wsivit.io import TEMPORARY, LocalFiles

PathLike = str | os.PathLike[str]

CONTRACT = "wsivit.json"


class Contract:
    """What the metadata of a run have in common, whatever its level; they are a frozen dataclass."""

    OUTCOME: ClassVar[frozenset[str]]
    """Fields that a training fills in; all others, but versions and command, are what was asked for."""
    model_fingerprint: str

    @property
    def done(self) -> bool:
        """Whether the training came to its end."""
        return bool(self.model_fingerprint)

    def write(self, folder: PathLike) -> None:
        """Write ``wsivit.json``, whole or not at all."""
        text = json.dumps(self._values(), indent=2, ensure_ascii=False) + "\n"
        LocalFiles(Path(folder)).write(CONTRACT, [text.encode()])

    @classmethod
    def read(cls, folder: PathLike) -> Self:
        """Read the metadata of a run folder; StoreError where it is no such run."""
        raise NotImplementedError

    def differences(self, other: Contract) -> list[str]:
        """Name what makes another run of it: model, data, split or options; not what comes out."""
        ours, theirs = (json.loads(json.dumps(contract._values())) for contract in (self, other))
        return [
            f"{name}: {shorten(ours[name])} there, {shorten(theirs[name])} asked for"
            for name in ours
            if name not in {*self.OUTCOME, "versions", "command"} and ours[name] != theirs[name]
        ]

    def begin_or_resume(self, folder: Path) -> bool:
        """Write the metadata of a run that begins; return whether one that was interrupted resumes.

        Raises
        ------
        OutputExistsError
            The folder holds another unfinished run; each difference is named.
        """
        LocalFiles(folder).remove_temporaries()
        if (folder / CONTRACT).is_file():
            if other := type(self).read(folder).differences(self):
                raise OutputExistsError(
                    f"{folder} holds another unfinished run: {'; '.join(other)}; choose another output folder"
                )
            return True
        folder.mkdir(parents=True, exist_ok=True)
        self.write(folder)
        return False

    def _values(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]


def refuse_other_contents(folder: Path, leftovers: Collection[str]) -> None:
    """Refuse a folder without metadata that holds more than a run leaves that was interrupted before it had any.

    Raises
    ------
    OutputExistsError
        It holds something else.
    """
    if folder.exists() and not (
        folder.is_dir() and all(e.name in leftovers or e.name.startswith(TEMPORARY) for e in folder.iterdir())
    ):
        raise OutputExistsError(f"{folder} exists and is no run; choose another output folder")
