"""The viewer against openslide-python's Deep Zoom server, and its own budgets in a browser.

    python tests/benchmarks/viewing.py SLIDE.. [--screens 40] [--store STORE] [--study FOLDER]

For each slide both servers are asked for the same screens of 1280 x 800 pixels, at level 0 and at half of it, by six
connections. The peer is the example server of openslide-python, rebuilt from its calls: Flask, `DeepZoomGenerator` with
tiles of 254 pixels and an overlap of 1, JPEG quality 75. With ``--store`` the page itself is timed in chromium.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local
from typing import Any

import psutil

SCREEN = 1280, 800
CONNECTIONS = 6
Box = tuple[float, float, float, float]


def serve_wsivit(*sources: str) -> None:
    """Serve until killed; the first line is the address."""
    import wsivit

    slide_mpp = None if sources[0].endswith(".zarr") or Path(sources[0]).is_dir() else 0.5
    view = wsivit.view(sources, browser=False, slide_mpp=slide_mpp)
    print(view.url, flush=True)
    view.wait()


def serve_openslide(path: str) -> None:
    """Serve the tiles of one slide as openslide-python's ``deepzoom_server.py`` does."""
    import flask
    from openslide import OpenSlide
    from openslide.deepzoom import DeepZoomGenerator
    from werkzeug.serving import make_server

    zoom = DeepZoomGenerator(OpenSlide(path), tile_size=254, overlap=1, limit_bounds=True)
    app = flask.Flask("deepzoom")

    @app.route("/levels")
    def levels() -> str:
        return json.dumps([zoom.level_dimensions, zoom.level_tiles])

    @app.route("/<int:level>/<int:col>_<int:row>.jpeg")
    def tile(level: int, col: int, row: int) -> flask.Response:
        out = io.BytesIO()
        zoom.get_tile(level, (col, row)).save(out, "jpeg", quality=75)
        response = flask.make_response(out.getvalue())
        response.mimetype = "image/jpeg"
        return response

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"http://127.0.0.1:{server.port}/", flush=True)
    server.serve_forever()


@contextmanager
def serving(kind: str, *sources: str) -> Iterator[tuple[str, psutil.Process, float]]:
    """Run a server in a process of its own; yields its address, the process, and the seconds until it was ready."""
    begun = time.perf_counter()
    command = [sys.executable, __file__, f"--serve-{kind}", *sources]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            yield address, psutil.Process(process.pid), time.perf_counter() - begun
        finally:
            process.kill()


class Client:
    """Asks a server on connections that stay open, one per thread."""

    def __init__(self, address: str) -> None:
        self.host = address.split("/")[2]
        self.token = address.partition("token=")[2]
        self.threads = local()

    def get(self, path: str) -> bytes:
        for _ in range(2):
            connection = getattr(self.threads, "connection", None) or http.client.HTTPConnection(self.host)
            self.threads.connection = connection
            try:
                connection.request("GET", path, headers={"Authorization": f"token {self.token}"})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status not in (200, 204):
                    raise RuntimeError(f"{path}: {answer.status}")
                return body
            except (http.client.HTTPException, ConnectionError):
                connection.close()
                self.threads.connection = None
        raise RuntimeError(f"{path}: no answer")


def wsivit_tiles(client: Client) -> Callable[[Box, float], list[str]]:
    key = json.loads(client.get("/study"))["rows"][0]["key"]
    about = json.loads(client.get(f"/slide/{key}"))

    def tiles(box: Box, downsample: float) -> list[str]:
        fitting = [k for k, level in enumerate(about["levels"]) if level["downsample"][0] <= downsample * 1.2]
        level = about["levels"][fitting[-1]]
        step = [side * scale for side, scale in zip(level["step"], level["downsample"], strict=True)]
        last = math.ceil(level["width"] / level["step"][0]) - 1, math.ceil(level["height"] / level["step"][1]) - 1
        cells = cover(box, step, last)
        return [f"/slide/{key}/tile/{about['pyramid']}/{fitting[-1]}/{col}/{row}" for col, row in cells]

    return tiles


def openslide_tiles(client: Client) -> Callable[[Box, float], list[str]]:
    dimensions, counts = json.loads(client.get("/levels"))

    def tiles(box: Box, downsample: float) -> list[str]:
        level = len(dimensions) - 1 - round(math.log2(downsample))
        scale = 2 ** round(math.log2(downsample))
        last = counts[level][0] - 1, counts[level][1] - 1
        return [f"/{level}/{col}_{row}.jpeg" for col, row in cover(box, [254 * scale] * 2, last)]

    return tiles


def cover(box: Box, step: list[float], last: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells of a grid that a box touches."""
    cols = range(int(box[0] // step[0]), min(last[0], int(box[2] // step[0])) + 1)
    rows = range(int(box[1] // step[1]), min(last[1], int(box[3] // step[1])) + 1)
    return [(col, row) for row in rows for col in cols]


def screens(size: tuple[int, int], downsample: float, count: int) -> list[Box]:
    """Screens at random places, the same for both servers."""
    places = random.Random(0)
    width, height = SCREEN[0] * downsample, SCREEN[1] * downsample
    corners = [
        (places.uniform(0, max(1, size[0] - width)), places.uniform(0, max(1, size[1] - height))) for _ in range(count)
    ]
    return [(x, y, x + width, y + height) for x, y in corners]


def measure(kind: str, path: str, downsample: float, boxes: list[Box]) -> dict[str, float]:
    with serving(kind, path) as (address, process, _):
        client = Client(address)
        tiles = (wsivit_tiles if kind == "wsivit" else openslide_tiles)(client)
        wanted = [tile for box in boxes for tile in tiles(box, downsample)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(client.get, wanted[:20]))
            cpu, begun = sum(process.cpu_times()[:2]), time.perf_counter()
            size = sum(map(len, pool.map(client.get, wanted)))
            seconds, cpu = time.perf_counter() - begun, sum(process.cpu_times()[:2]) - cpu
        return {
            "screens/s": len(boxes) / seconds,
            "screens/CPU s": len(boxes) / cpu,
            "tiles/s": len(wanted) / seconds,
            "MB": size / 1e6,
            "RSS MB": process.memory_info().rss / 1e6,
        }


def compare(path: str, count: int) -> None:
    import wsivit

    with wsivit.open_slide(path, mpp=0.5) as slide:
        native = [
            round(level.downsample_x) for k, level in enumerate(slide.levels) if slide.native_tiles(k) is not None
        ]
        size = slide.dimensions
    for downsample in (1, 2):
        how = "passed on" if downsample in native else "decoded"
        boxes = screens(size, downsample, count)
        rows = {kind: measure(kind, path, downsample, boxes) for kind in ("wsivit", "openslide")}
        clock, cpu = (rows["wsivit"][name] / rows["openslide"][name] for name in ("screens/s", "screens/CPU s"))
        print(f"\n{Path(path).name}, 1:{downsample}, {how}: {clock:.1f}x by the clock, {cpu:.1f}x by CPU")
        for kind, row in rows.items():
            print(f"  {kind:10}", "  ".join(f"{name} {value:.1f}" for name, value in row.items()))


STORM = """
const done = arguments[0], view = wsivit.page.view, [w, h] = wsivit.page.slide.size0;
view.source.times.length = 0; view.drawTimes.length = 0;
let frames = 0, gaps = [], last = performance.now();
const begun = last, finest = 1, coarsest = Math.max(w / 900, h / 600);
function step(now) {
  gaps.push(now - last); last = now; frames += 1;
  const t = (now - begun) / 6000;
  if (t >= 1) {
    const draw = view.drawTimes.slice().sort((a, b) => a - b), tiles = view.source.times.slice().sort((a, b) => a - b);
    const at = (list, q) => list[Math.floor(q * (list.length - 1))];
    done({"frames/s": frames / 6, "draw ms p50": at(draw, .5), "draw ms p95": at(draw, .95), tiles: tiles.length,
          "tile ms p50": at(tiles, .5), "tile ms p95": at(tiles, .95)});
    return;
  }
  const zoom = Math.exp((0.5 + 0.5 * Math.cos(t * 20)) * Math.log(coarsest / finest)) * finest;
  view.show(w * (0.5 + 0.2 * Math.sin(t * 9)), h * (0.5 + 0.2 * Math.cos(t * 7)), zoom);
  requestAnimationFrame(step);
}
requestAnimationFrame(step);
"""
RECOLOR = """
const done = arguments[1], cells = arguments[0];
import(new URL("page/score-map.js", document.baseURI)).then(({ColoredGrid, scoreColors, measure}) => {
  const side = Math.round(Math.sqrt(cells)), bytes = new Uint8Array(side * side);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7919 + (i >> 9)) % 202;
  const grid = new ColoredGrid(side, side), table = scoreColors(wsivit.page.colors.arrays.coolwarm, 200);
  const times = [];
  for (let k = 0; k < 5; k++) {
    const t = performance.now();
    grid.color(bytes, table);
    times.push(performance.now() - t);
  }
  const t = performance.now();
  measure(bytes, side, side, 100, {downsample0: [1, 1], size0: [side, side], mpp: [1, 1]});
  done([Math.min(...times), times.sort((a, b) => a - b)[2], performance.now() - t]);
}, error => done(String(error)));
"""


def browse(store: str, repeats: int = 5) -> None:
    """Time the page in a browser without a GPU."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.viewer_helpers import READY, chromium

    with serving("wsivit", store) as (address, process, ready), chromium() as driver:
        driver.set_window_size(*SCREEN)
        views = []
        for _ in range(repeats):
            driver.get("about:blank")
            begun = time.perf_counter()
            driver.get(address)
            while not driver.execute_script(READY):
                time.sleep(0.01)
            views.append(time.perf_counter() - begun)
        print(f"\nserver ready after {ready:.2f} s; first view complete after {statistics.median(views):.2f} s")
        driver.set_script_timeout(120)
        print(json.dumps(driver.execute_async_script(STORM), indent=1))
        for cells in (10**6, 10**7):
            best, median, measured = driver.execute_async_script(RECOLOR, cells)
            print(f"recolour {cells:,} cells: {best:.0f} ms (median {median:.0f}); area and focus {measured:.0f} ms")
        print(f"server: {process.memory_info().rss / 1e6:.0f} MB resident")


def list_study(folder: str) -> None:
    """Time and memory until every row of a study is known."""
    with serving("wsivit", folder) as (address, process, ready):
        client, begun = Client(address), time.perf_counter()
        while not (answer := json.loads(client.get("/study?since=999999999")))["complete"]:
            time.sleep(0.2)
        seconds = time.perf_counter() - begun
        memory = process.memory_info().rss / 1e6
        times = f"ready after {ready:.2f} s, all rows {seconds:.1f} s later"
        print(f"\n{answer['slides']} slides: {times}, {memory:.0f} MB resident")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("slides", nargs="*")
    parser.add_argument("--screens", type=int, default=40)
    parser.add_argument("--store", help="time the page on this store")
    parser.add_argument("--study", help="time the list of this folder")
    arguments = parser.parse_args()
    for slide in arguments.slides:
        compare(slide, arguments.screens)
    if arguments.store:
        browse(arguments.store)
    if arguments.study:
        list_study(arguments.study)


SERVERS: dict[str, Callable[..., Any]] = {"--serve-wsivit": serve_wsivit, "--serve-openslide": serve_openslide}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in SERVERS:
        SERVERS[sys.argv[1]](*sys.argv[2:])
    else:
        main()
