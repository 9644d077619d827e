"""From what a model is called to the model: run folders, timm, transformers, the WSInfer zoo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsivit.errors import StoreMismatchError, UsageError
from wsivit.models.model_spec import Model, ModelSpec, PathLike, finished_run, run_name
from wsivit.models.run_folder import CONTRACT, RunMetadata
from wsivit.models.torchscript import PROGRAM, open_zoo

if TYPE_CHECKING:
    from wsivit.models.network import Network


def open_model(model: PathLike, *, trust_torchscript: bool = False) -> Model:
    """Find out what a model is.

    Parameters
    ----------
    model : path or str
        A run folder of ``wsivit train``; a timm name, a hub id, or a folder with ``config.json`` and
        ``model.safetensors``; a folder with ``config.json`` and ``torchscript_model.pt``.
    trust_torchscript : bool
        Whether the last may be run.

    Raises
    ------
    StoreError
        A folder that is no model, or is damaged.
    UsageError
        The model is unknown, cannot be had, is not finished, or is not trusted.
    """
    folder = Path(model)
    if (folder / PROGRAM).is_file() and not (folder / CONTRACT).is_file():
        return open_zoo(folder, trusted=trust_torchscript)
    if (folder / CONTRACT).is_file() or (folder.is_dir() and not (folder / "config.json").is_file()):
        return open_run(model, finished_run(model))
    _refuse_missing_folder(folder, str(model))
    from wsivit.models.pretrained import open_published

    return open_published(str(model))


def _refuse_missing_folder(folder: Path, given: str) -> None:
    """Say at once that a folder is not there, before a hub is asked for what has its name."""
    path_like = given.startswith((".", "~", "/")) or given.count("/") > 1 or ("/" in given and folder.parent.is_dir())
    if folder.exists() or not path_like:
        return
    there = folder.parent.iterdir() if folder.parent.is_dir() else []
    runs = sorted(run.name for run in there if (run / CONTRACT).is_file())
    hint = f"; {folder.parent} has {', '.join(runs)}" if runs else ""
    raise UsageError(f"there is no model in {given}: no such folder{hint}")


def open_run(run: PathLike, contract: RunMetadata) -> Model:
    """Return the model of a run."""
    spec = ModelSpec.of_run(run_name(run), contract)

    def load() -> Network:
        from wsivit.models.classifier import load_classifier, weights_fingerprint
        from wsivit.models.network import of_classifier

        if weights_fingerprint(run) != spec.fingerprint:
            raise StoreMismatchError(f"{run}: the weights are not those that were trained: their fingerprint differs")
        return of_classifier(load_classifier(run).model)

    return Model(spec, load)
