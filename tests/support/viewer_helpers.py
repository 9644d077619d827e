"""A viewer that is running, asked as a browser asks it; and a browser."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

import wsivit
from wsivit.viewer import View, ViewOptions

_TYPES = {"u1": np.uint8, "i2": np.int16, "i4": np.int32, "f4": np.float32}


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and facts of a packed answer, read by its description."""
        length = int.from_bytes(self.body[:4], "little")
        facts = json.loads(self.body[4 : 4 + length])
        arrays = {}
        for name, place in facts.pop("arrays").items():
            count, start = int(np.prod(place["shape"])), 4 + length + place["at"]
            values = np.frombuffer(self.body, _TYPES[place["type"]], count, start)
            arrays[name] = values.reshape(place["shape"])
        return arrays, facts


class Client:
    """Asks one viewer, with its cookie unless told otherwise."""

    def __init__(self, view: View) -> None:
        self.view, self.port = view, view.port
        self.token = parse_qs(urlsplit(view.url).query)["token"][0]
        self.cookie = ""
        entered = self.ask(f"/?token={self.token}")
        self.cookie = entered.headers["Set-Cookie"].partition(";")[0]
        self.entered = entered

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, cookie: bool = True, **headers: str
    ) -> Reply:
        sent = {"Host": f"127.0.0.1:{self.port}"}
        sent |= {"Cookie": self.cookie} if cookie and self.cookie else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.ask("/study").json["rows"]
        return rows

    @property
    def key(self) -> str:
        """Key of the first slide."""
        key: str = self.rows[0]["key"]
        return key


@contextmanager
def viewing(*sources: Path, **options: Any) -> Iterator[Client]:
    """Serve stores or slides while it lasts."""
    keywords = {name: options.pop(name) for name in ("annotations", "slide_mpp") if name in options}
    with wsivit.view(sources, browser=False, options=ViewOptions(**options), **keywords) as view:
        yield Client(view)


def chromium_is_missing() -> str:
    """Why there is no browser to test in; empty where there is one."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return "no chromium and chromedriver: apt-get install chromium chromium-driver"
    return ""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser without a window, and without anything of its own that asks the network."""
    pytest.importorskip("selenium")
    if missing := chromium_is_missing():
        pytest.skip(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,700",
        "--no-first-run", "--disable-background-networking", "--disable-sync", "--force-device-scale-factor=1",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
