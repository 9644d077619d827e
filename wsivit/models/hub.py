"""Asking the Hugging Face hub: what went wrong in one line, with what to do, and a word when it takes long."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors

from wsivit.errors import UsageError, WsivitError
from wsivit.models.weights import MODEL_LOAD_ERRORS

_log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds after which a log line says that the hub has not answered."""


@contextmanager
def hub_errors(name: str, *, scratch: bool = True) -> Iterator[None]:
    """Turn every way in which weights cannot be loaded into one error with what to do; log when it takes long."""
    try:
        with asking_hub(name):
            yield
    except WsivitError:
        raise
    except MODEL_LOAD_ERRORS as error:
        ways = [
            "run once with a network, the hub's cache (HF_HOME) then serves offline",
            "give a folder with config.json and model.safetensors as the model",
        ]
        if scratch:
            ways[1] += ", or a .safetensors file as the weights"
            ways.append("start from scratch (--no-pretrained)")
        listed = "; ".join(f"({i}) {way}" for i, way in enumerate(ways, 1))
        raise UsageError(
            f"model {name}: the weights could not be loaded ({hub_reason(error)}). {len(ways)} ways: {listed}"
        ) from error


@contextmanager
def asking_hub(name: str) -> Iterator[None]:
    """Log when the hub takes long, and leave out its own warnings."""
    waiting = threading.Timer(
        PATIENCE,
        lambda: _log.info("%s: still waiting for the hub; HF_HUB_OFFLINE=1 takes only what is on the disk", name),
    )
    waiting.daemon = True
    waiting.start()
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it warns of every attempt to reach the hub
    try:
        yield
    finally:
        waiting.cancel()
        hub.setLevel(level)


def hub_reason(error: BaseException) -> str:
    """Say in one line why the hub gave nothing, and what to do about it where that depends on the reason."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    # transformers and timm wrap what the hub's client says: the innermost that is known says most.
    for each in reversed(chain):
        if isinstance(each, errors.HfHubHTTPError):
            return _answer(each)
        if isinstance(each, errors.OfflineModeIsEnabled):
            return "not in the hub's cache (HF_HOME), and HF_HUB_OFFLINE forbids to ask the hub"
        if isinstance(each, OSError) and each.errno == errno.ENOSPC:
            return f"no space left in the hub's cache, {constants.HF_HUB_CACHE} (HF_HOME moves it)"
    if any(isinstance(each, errors.LocalEntryNotFoundError) for each in chain):
        if constants.HF_HUB_OFFLINE:
            return "not in the hub's cache (HF_HOME), and HF_HUB_OFFLINE forbids to ask the hub"
        return f"not in the hub's cache (HF_HOME), and {constants.ENDPOINT} cannot be reached"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _answer(error: errors.HfHubHTTPError) -> str:
    """Say what a refusal of the hub means."""
    code = error.response.status_code
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        if code == 401:
            return f"gated, and nobody is logged in: ask for access on its page, then {login}"
        return "gated, and the account that is logged in has no access: ask for it on its page, and wait for the answer"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision any more"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.RepositoryNotFoundError) or code == 401:
        return f"no such repository on the hub, or a private one: {login} with an account that may see it"
    return f"the hub answers {code}"
