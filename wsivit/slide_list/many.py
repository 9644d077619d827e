"""Verbs over one slide or store that take many as well, as on the command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from wsivit.errors import UsageError
from wsivit.slide_list.sources import is_one

P = ParamSpec("P")
R = TypeVar("R")


def takes_many(
    source: str, unless: Callable[..., bool] = lambda *args, **given: False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a verb take many sources, as the parameter of that name: a list, folder, glob, table, cohort.

    It is then the method of that name of a `Cohort`, whose options (``workers``, ``include``, …) are keywords too, and
    returns a `CohortResult`. Where `unless` says so of the arguments, the verb itself deals with many.
    """

    def decorate(verb: Callable[P, R]) -> Callable[P, R]:
        declared = signature(verb)

        @wraps(verb)
        def call(*args: P.args, **given: P.kwargs) -> R:
            place = list(declared.parameters).index(source)
            missing = source not in given and place >= len(args)
            if missing or unless(*args, **given) or is_one(given[source] if source in given else args[place]):
                return verb(*args, **given)
            # The face of the library finds it: cohorts stand on the verbs over one slide, and not these on them.
            import wsivit

            known = signature(wsivit.CohortOptions).parameters
            many: dict[str, Any] = {name: given.pop(name) for name in list(given) if name in known}
            bound = declared.bind(*args, **given)
            wanted, output = bound.arguments.pop(source), bound.arguments.pop("output", None)
            progress = bool(bound.arguments.pop("progress", False))
            cohort = wsivit.Cohort(wanted, None if output == "." else output, progress=progress, **many)
            method = getattr(cohort, verb.__name__)
            for name, argument in list(bound.arguments.items()):
                if name not in signature(method).parameters:
                    if argument != declared.parameters[name].default:
                        raise UsageError(f"{verb.__name__}: {name} is for one slide or store, and not for many")
                    del bound.arguments[name]
            return method(**bound.arguments)  # type: ignore[no-any-return]

        return call

    return decorate
