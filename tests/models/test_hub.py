"""What the hub answers, from a server on this machine: each refusal is one line that says what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wsivit.errors import UsageError
from wsivit.models import encoder, hub_errors, open_encoder, open_model

ANSWERS: dict[str, tuple[int, dict[str, str], str]] = {
    "nobody": (
        401,
        {"X-Error-Code": "GatedRepo"},
        r"gated, and nobody is logged in: ask .* `hf auth login` or set HF_",
    ),
    "no access": (
        403,
        {"X-Error-Code": "GatedRepo"},
        "the account that is logged in has no access: ask for it on its",
    ),
    "private": (401, {"X-Error-Code": "RepoNotFound"}, "no such repository on the hub, or a private one: log in with"),
    "token": (401, {}, "no such repository on the hub, or a private one: log in with"),
    "gone": (404, {"X-Error-Code": "RevisionNotFound"}, "the repository has no such revision any more"),
    "file": (404, {"X-Error-Code": "EntryNotFound"}, "the repository has no such file"),
    "busy": (418, {}, "the hub answers 418"),
}


class Hub(BaseHTTPRequestHandler):
    """Refuses every file in one way."""

    answer: tuple[int, dict[str, str], str]

    def do_HEAD(self) -> None:
        self.send_response(self.answer[0])
        for name, value in self.answer[1].items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    point_at(monkeypatch, url, tmp_path)
    yield url
    server.shutdown()
    server.server_close()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "ENDPOINT", url)
    monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants + "HF_HUB_CACHE", str(cache / "hub"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_each_refusal_of_the_hub_is_one_line(answer: str, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "answer", ANSWERS[answer], raising=False)
    with pytest.raises(UsageError, match=ANSWERS[answer][2]) as raised:
        open_encoder(encoder("uni2-h"))
    said = str(raised.value)
    assert said.startswith("encoder uni2-h: pytorch_model.bin of https://huggingface.co/MahmoodLab/UNI2-h could not be")
    assert said.endswith("or give the file, or a folder like the repository, as --weights") and "\n" not in said
    with pytest.raises(UsageError, match=ANSWERS[answer][2]):
        open_model("somebody/some-model")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path)  # the port of nobody
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # it tries again, later and later
    with pytest.raises(UsageError, match=r"not in the hub's cache \(HF_HOME\), and http://127\.0\.0\.1:9 cannot be"):
        open_encoder(encoder("uni2-h"))


def test_no_hub_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"not in the hub's cache \(HF_HOME\), and HF_HUB_OFFLINE forbids to ask the"):
        open_encoder(encoder("uni2-h"))


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no space left in the hub's cache, .* \(HF_HOME moves it\)"), hub_errors("x"):
        raise OSError(28, "No space left on device")
