"""From a model's name to the library that knows it: timm, transformers, a folder, the hub."""

from __future__ import annotations

import difflib
import json
import logging
from pathlib import Path
from typing import Any, Literal, TypeAlias

import timm

from wsivit.errors import StoreError, UsageError
from wsivit.models.hub import hub_errors
from wsivit.models.weights import refuse_code

_log = logging.getLogger(__name__)

CONFIG = "config.json"
_HUB = ("hf-hub:", "hf_hub:")
Library: TypeAlias = Literal["timm", "transformers"]


def library_of(name: str, *, scratch: bool = True) -> tuple[Library, str]:
    """Return which library knows a model, and its name there.

    Parameters
    ----------
    name : str
        A timm name, also one that timm has renamed since; ``owner/name`` or ``hf-hub:owner/name`` of the hub, where the
        repository's ``config.json`` says which library it is for; or a folder.
    scratch : bool
        Whether a model without weights would do, for the message.

    Raises
    ------
    UsageError
        None does, or the hub does not answer.
    StoreError
        A folder that is no model.
    """
    folder = Path(name)
    if folder.is_dir():
        return ("timm", f"local-dir:{folder}") if "architecture" in read_config(folder) else ("transformers", name)
    called = next((name[len(hub) :] for hub in _HUB if name.lower().startswith(hub)), name)
    known = _timm_name(called.removeprefix("timm/"))
    if known is not None:
        return "timm", known
    if called.count("/") != 1 or not all(called.split("/")):
        alike = _alike(name.partition(".")[0])
        raise UsageError(f"unknown model {name!r}: not a timm name, a hub id (owner/name) or a folder{alike}")
    from huggingface_hub import hf_hub_download

    with hub_errors(name, scratch=scratch):
        config = _checked(Path(hf_hub_download(called, CONFIG)), called)
    return ("timm", f"hf-hub:{called}") if "architecture" in config else ("transformers", called)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a model folder; StoreError where there is none, or it would run code."""
    return _checked(folder / CONFIG, str(folder))


def _timm_name(name: str) -> str | None:
    """Return what timm calls a model today; None where it does not know the name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return None
    renamed = timm.models.get_deprecated_models()
    if architecture not in renamed:
        return name
    current = renamed[architecture]
    if not current:
        raise UsageError(f"model {name}: timm has removed it, and names nothing in its place{_alike(architecture)}")
    if tag:
        current = f"{current.partition('.')[0]}.{tag}"
    _log.info("timm has renamed %s: it is %s now", name, current)
    return current


def _checked(path: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{where}: not a model folder: {CONFIG} is missing or unreadable") from error
    if not isinstance(config, dict):
        raise StoreError(f"{where}: not a model folder: {CONFIG} holds no settings")
    refuse_code(config, where)
    return config


def _alike(architecture: str) -> str:
    close = difflib.get_close_matches(architecture.lower(), timm.list_models(), 3)
    return f"; timm has {', '.join(close)}" if close else ""
