"""Options as keywords: ``tile(slide, mpp=0.5)`` for ``tile(slide, options=TileOptions(mpp=0.5))``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

from wsivit.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def options_as_keywords(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a verb take each field of its options classes as a keyword of its own, instead of an options object.

    The verb has a parameter with an instance as default for each options class, and ``**keywords: Any``, which stand
    for the fields in its type; its signature at run time lists them, so that a notebook completes them.
    """
    declared, title = signature(verb), verb.__qualname__.removesuffix(".__init__")
    own = {p.name: p for p in declared.parameters.values() if p.kind is not Parameter.VAR_KEYWORD}
    defaults: dict[str, Any] = {name: p.default for name, p in own.items() if is_dataclass(p.default)}
    # A field that two classes have (a scale, a batch size) is meant for the first.
    owner = {field.name: name for name in reversed(defaults) for field in fields(defaults[name])}
    owner = {field: name for field, name in owner.items() if field not in own}

    @wraps(verb)
    def call(*args: P.args, **given: P.kwargs) -> R:
        options: dict[str, dict[str, Any]] = {}
        for keyword in [name for name in given if name not in own]:
            if keyword not in owner:
                close = get_close_matches(keyword, [*own, *owner], 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"{title}() has no option {keyword!r}{hint}")
            options.setdefault(owner[keyword], {})[keyword] = given.pop(keyword)
        if not options:
            return verb(*args, **given)
        bound = declared.bind_partial(*args, **given)
        for name, values in options.items():
            default = defaults[name]
            if bound.arguments.get(name, default) != default:
                raise UsageError(
                    f"{title}: give {', '.join(values)} in {name}={type(default).__name__}(…) or as keywords, not both"
                )
            bound.arguments[name] = replace(default, **values)
        return verb(*bound.args, **bound.kwargs)

    listed = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=getattr(defaults[name], field.name))
        for name in defaults
        for field in fields(defaults[name])
        if owner.get(field.name) == name
    ]
    call.__signature__ = declared.replace(parameters=[*own.values(), *listed])  # type: ignore[attr-defined]
    return call
