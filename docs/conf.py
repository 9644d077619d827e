"""The documentation site: ``sphinx-build -W -b html docs site``."""

from __future__ import annotations

import inspect

import wsivit

project = "wsivit"
author = "the wsivit developers"
copyright = "2026, the wsivit developers"
version = release = wsivit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["site"]

html_theme = "furo"
html_title = f"wsivit {version}"
html_static_path: list[str] = []

myst_heading_anchors = 4
# Heading anchors are those of a forge's own rendering, so that links work in both.
myst_enable_extensions = ["colon_fence"]

napoleon_google_docstring = False
napoleon_use_rtype = False
# Types are words ("path or URL"), not names to look up.
napoleon_use_param = False
napoleon_use_ivar = True
# Fields of a dataclass are documented as its parameters.
autodoc_default_options = {"members": True, "undoc-members": False, "exclude-members": "__init__, __new__"}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
copybutton_prompt_text = "$ "
nitpicky = False


def _without_default_objects(
    app: object, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Show an options object as its class: its defaults stand in the class's own entry."""
    if what not in ("function", "method") or not callable(obj):
        return None
    shown = []
    for parameter in inspect.signature(obj).parameters.values():
        default = parameter.default
        if default is not parameter.empty and type(default).__name__.endswith("Options"):
            default = f"{type(default).__name__}()"
            parameter = parameter.replace(default=_Literal(default))
        shown.append(parameter.replace(annotation=parameter.empty))
    return str(inspect.Signature(shown)), None


class _Literal(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def setup(app: object) -> None:
    """Connect what Sphinx calls."""
    app.connect("autodoc-process-signature", _without_default_objects)  # type: ignore[attr-defined]
