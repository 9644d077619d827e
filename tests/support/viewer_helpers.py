"""A viewer that is running, asked as a browser asks it; and a browser."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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
def viewing(*sources: Path | str, **options: Any) -> Iterator[Client]:
    """Serve stores or slides while it lasts."""
    keywords: dict[str, Any] = {name: options.pop(name) for name in ("annotations", "slide_mpp") if name in options}
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


READY = "return !!(window.wsivit?.page?.ready && window.wsivit.page.view.complete)"
"""Whether everything is loaded and drawn."""


class Page:
    """The page of one viewer in the browser."""

    def __init__(self, driver: Any, client: Client) -> None:
        self.driver, self.client = driver, client

    def open(self, state: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.client.view.url}#{state}")
        self.wait(READY)

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> Any:
        for _ in range(1200):
            if value := self.js(condition):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never: {condition}; {self.js('return document.body.innerText')}")

    def show(self, x: float, y: float, downsample: float) -> None:
        self.js(
            "wsivit.page.view.complete = false; wsivit.page.view.show(...arguments); wsivit.page.view.redraw()",
            x,
            y,
            downsample,
        )
        self.wait(READY)

    def frame(self) -> None:
        """Wait until what was asked to be drawn is drawn."""
        self.js("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def element(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def choose(self, name: str, value: object) -> None:
        """Choose or slide as a person does: the element changes and says so."""
        script = """const [name, value] = arguments, at = document.getElementById(name);
            if (at.type === "checkbox") at.checked = value; else at.value = value;
            for (const kind of ["input", "change"]) at.dispatchEvent(new Event(kind, {bubbles: true}))"""
        self.js(script, name, value)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def point(self, x: float, y: float, *, click: bool = False, drag: tuple[int, int] | None = None) -> None:
        """Move the pointer to a place in level-0 pixels, and press there."""
        from selenium.webdriver import ActionChains

        view, box = self.js("return [wsivit.page.view.view, document.getElementById('map').getBoundingClientRect()]")
        at = box["x"] + (x - view["x0"]) * view["scale"], box["y"] + (y - view["y0"]) * view["scale"]
        actions = ActionChains(self.driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(round(at[0]), round(at[1]))
        if click:
            actions.click()
        if drag is not None:
            actions.click_and_hold().move_by_offset(*drag).release()
        actions.perform()

    def picture(self) -> NDArray[np.uint8]:
        """The map as it is on the screen; uint8 (h, w, 3)."""
        png = self.element("map").screenshot_as_png
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def text(self, name: str) -> str:
        return str(self.js("return document.getElementById(arguments[0]).textContent", name))

    def silent(self) -> None:
        """Nothing is on the console, and nothing was asked of anybody else."""
        assert self.driver.get_log("browser") == []
        asked = self.js("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert {address.split("/")[2] for address in asked if not address.startswith("blob:")} <= {
            f"127.0.0.1:{self.client.port}"
        }


@contextmanager
def page_of(driver: Any, *sources: Path, state: str = "", **options: Any) -> Iterator[Page]:
    with viewing(*sources, **options) as client:
        page = Page(driver, client)
        page.open(state)
        yield page
        page.driver.get("about:blank")


def axe_problems(page: Page) -> list[tuple[str, str]]:
    axe = pytest.importorskip("axe_core_python.selenium")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    page.js(source)
    results = page.driver.execute_async_script("const done = arguments[0]; axe.run().then(done)")
    return [
        (problem["id"], problem["nodes"][0]["html"])
        for problem in results["violations"]
        if problem["impact"] in ("serious", "critical")
    ]
