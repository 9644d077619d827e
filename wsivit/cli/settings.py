"""Where options come from besides the command line: the environment, then a file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cyclopts import UNSET
from cyclopts.config import Dict, Env

from wsivit.errors import UsageError
from wsivit.io import read_toml, suggestion

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection


@dataclass
class Settings:
    """The environment and the file of ``--config``, which fill in what the command line leaves open.

    cyclopts calls it with what it has parsed.

    Parameters
    ----------
    verbs : collection of str

    Attributes
    ----------
    origins : list of str
        ``option = value (where from)`` for each option that the command line did not give.
    """

    verbs: Collection[str]
    origins: list[str] = field(default_factory=list)

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in the arguments of a command."""
        if not commands or commands[0] not in self.verbs:
            return
        # Each source fills only what those before it left open: WSIVIT_TILE_MPP goes before WSIVIT_MPP.
        for with_verb in (True, False):
            Env("WSIVIT_", command=with_verb)(app, commands, arguments)
        files = [token.value for argument in arguments if "--config" in argument.names for token in argument.tokens]
        if any(files):
            self._fill_from(files[0], app, commands, arguments)
        for argument, token in [(filled, token) for filled in arguments for token in filled.tokens]:
            # What an unset variable of a shell leaves. A flag has no value of its own.
            if token.value == "" and token.implicit_value is UNSET:
                raise UsageError(f"{argument.name} is empty: give a value, or leave it out")
            if token.source != "cli":
                where = token.keyword if token.source == "env" else token.source
                self.origins.append(f"{argument.name} = {token.value} ({where})")

    def _fill_from(self, path: str, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        (verb,) = commands
        document = read_toml(path)
        tables = {name: value for name, value in document.items() if isinstance(value, dict)}
        for name in tables.keys() - set(self.verbs):
            raise UsageError(f"{path}: there is no verb {name}{suggestion(name, self.verbs)}")
        own = tables.get(verb, {})
        known = _names(arguments)
        for name in own:
            if _key(name) not in known:
                raise UsageError(f"{path}: [{verb}] has no option {name}{suggestion(name, known)}")
        shared = {name: value for name, value in document.items() if name not in tables}
        strangers = [name for name in shared if _key(name) not in known]
        if strangers:
            self._require_options_of_another_verb(path, strangers)
        values = {_key(name).replace("_", "-"): value for name, value in {**shared, **own}.items()}
        values = {name: value for name, value in values.items() if _key(name) in known}
        # By verb: cyclopts takes a key that is also the name of a verb, such as `run`, for that verb's table.
        Dict({verb: values}, source=path)(app, commands, arguments)

    def _require_options_of_another_verb(self, path: str, names: list[str]) -> None:
        """Raise UsageError for a name above the tables that is an option of no verb."""
        from wsivit.cli.app import build  # which loads the commands of every verb: only where it must be known

        app = build(called=self.verbs)
        known = set[str]().union(*(_names(app[verb].assemble_argument_collection()) for verb in self.verbs))
        for name in names:
            if _key(name) not in known:
                raise UsageError(f"{path}: no verb has an option {name}{suggestion(name, known)}")


def _names(arguments: Any) -> set[str]:
    """All names of the options of a command, as keys of a file."""
    return {_key(name) for argument in arguments for name in argument.names if name.startswith("--")}


def _key(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")
