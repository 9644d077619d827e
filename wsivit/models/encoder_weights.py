"""The weights of an encoder of the registry: found, checked against its checksum, and made safetensors. No torch.

Nothing parses a file before its sha256 is known. A pickle is read only where the registry lists its checksum, once, in
a process that does nothing else, with ``weights_only``; what comes out is kept as safetensors with a receipt.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from wsivit.errors import StoreError, UsageError
from wsivit.models.encoders import Encoder
from wsivit.models.hub import asking_hub, hub_reason
from wsivit.models.weights import MODEL_LOAD_ERRORS, WEIGHTS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderWeights:
    """A safetensors file, and what it was made of.

    Attributes
    ----------
    path : Path
        The safetensors file.
    sha256 : str
        Of the file that was published or given; a conversion does not change it.
    registered : bool
        Whether that is the registry's checksum.
    """

    path: Path
    sha256: str
    registered: bool


def encoder_weights(
    encoder: Encoder, weights: str | os.PathLike[str] | None = None, *, allow_other: bool = False
) -> EncoderWeights:
    """Find an encoder's weights and check them.

    Parameters
    ----------
    encoder : Encoder
    weights : path, optional
        A file, or a folder in the form of its repository. Default: the hub, at the registry's revision.
    allow_other : bool
        Whether safetensors with another checksum than the registry's will do.

    Raises
    ------
    UsageError
        It cannot be run here, its weights cannot be had, or they are not the registry's.
    StoreError
        They are damaged.
    """
    if encoder.refused:
        raise UsageError(
            f"encoder {encoder.name} cannot be run here: {encoder.refused}, and wsivit runs no code that comes with a "
            "model; features that its authors' code has made can be imported: wsivit import FEATURES.h5 STORE "
            f"--encoder {encoder.name}"
        )
    path = _file_in(encoder, Path(weights)) if weights is not None else _from_hub(encoder)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    registered = sha256 == encoder.sha256
    if registered and encoder.pickle:
        return EncoderWeights(_convert(encoder, path, sha256), sha256, True)
    if path.suffix != ".safetensors":
        raise UsageError(
            f"{path}: a pickle, which can run any program, and not the one that the registry lists for {encoder.name} "
            f"(sha256 {sha256[:12]}…, the registry's is {_listed(encoder)}): it is not read; give a .safetensors file"
        )
    if not registered and encoder.sha256 and not allow_other:
        raise UsageError(
            f"{path}: not the weights that the registry lists for {encoder.name}: sha256 {sha256[:12]}…, the "
            f"registry's is {_listed(encoder)}; --allow-other-weights uses them all the same, and records it"
        )
    return EncoderWeights(path, sha256, registered)


def _listed(encoder: Encoder) -> str:
    return f"{encoder.sha256[:12]}…" if encoder.sha256 else "not known"


def _file_in(encoder: Encoder, given: Path) -> Path:
    """Return the file of weights in a folder in the form of the encoder's repository, or the file itself."""
    if given.is_dir():
        there = [given / name for name in dict.fromkeys((WEIGHTS, encoder.file)) if (given / name).is_file()]
        if not there:
            raise UsageError(f"{given}: no {WEIGHTS} and no {encoder.file} in this folder")
        return there[0]
    if not given.is_file():
        raise UsageError(f"{given}: no such file of weights")
    return given


def cached_weights(encoder: Encoder) -> Path | None:
    """Return the encoder's file in the hub's cache; None where it is not there. No network is used."""
    from huggingface_hub import try_to_load_from_cache

    if not encoder.hub or "/" not in encoder.hub:
        return None
    there = try_to_load_from_cache(encoder.hub, encoder.file, revision=encoder.revision or None)
    return Path(there) if isinstance(there, str) else None


def _from_hub(encoder: Encoder) -> Path:
    if not encoder.hub:
        raise UsageError(
            f"encoder {encoder.name}: its weights ({encoder.file}) are on no hub that wsivit knows; give them as "
            "--weights FILE.safetensors"
        )
    from huggingface_hub import hf_hub_download

    try:
        with asking_hub(encoder.name):
            return Path(hf_hub_download(encoder.hub, encoder.file, revision=encoder.revision or None))
    except MODEL_LOAD_ERRORS as error:
        raise UsageError(
            f"encoder {encoder.name}: {encoder.file} of {encoder.url} could not be fetched: {hub_reason(error)}; or "
            "give the file, or a folder like the repository, as --weights"
        ) from error


# pickles ---------------------------------------------------------------------------------------------


def _convert(encoder: Encoder, path: Path, sha256: str) -> Path:
    """Return the safetensors made of a pickle of the registry, from the cache where a receipt vouches for them."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "wsivit"
    made, receipt = folder / f"{sha256}.safetensors", folder / f"{sha256}.json"
    try:
        said = json.loads(receipt.read_text(encoding="utf-8"))
        with made.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == said["safetensors_sha256"]:
                return made
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never converted, or what is there is damaged: convert
    _log.info("%s: converting %s to safetensors, once", encoder.name, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error}); set HF_HOME to a folder that can be written") from error
    partial = made.with_suffix(f".{os.getpid()}.part")
    command = [sys.executable, "-m", "wsivit.models.unpickle", str(path), sha256, str(partial)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode or not partial.is_file():
            why = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise StoreError(f"{path}: the weights of {encoder.name} cannot be converted: {why}")
        with partial.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        partial.replace(made)
    finally:
        partial.unlink(missing_ok=True)
    text = json.dumps({"encoder": encoder.name, "source": path.name, "sha256": sha256, "safetensors_sha256": checksum})
    receipt.write_text(text + "\n", encoding="utf-8")
    return made
