"""What the server answers: the page, and pixels, scores and labels of the slides it shows.

An address names a slide by its key and everything else by a number or a name of those on offer; none holds a path.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from shapely.geometry import mapping
from tornado.web import HTTPError

from wsivit.errors import UsageError, WsivitError
from wsivit.heatmap import class_colors, draw_thumbnail, read_heatmap_data, score_colors
from wsivit.io import scrub
from wsivit.store import LabelColumn
from wsivit.viewer.access import GuardedHandler
from wsivit.viewer.binary import compress, pack_arrays
from wsivit.viewer.decode_queue import DecodeQueue
from wsivit.viewer.painted_labels import Stroke, label_regions
from wsivit.viewer.pyramid import UNREADABLE, TileAnswer, encode, store_tile
from wsivit.viewer.score_bands import pack_scores, pack_tiles, shown_runs
from wsivit.viewer.study import Study
from wsivit.viewer.viewed_slide import ViewedSlide

_log = logging.getLogger(__name__)
T = TypeVar("T")
COLOR_MAPS = ("coolwarm", "viridis", "magma", "cividis", "RdBu_r")
_THUMBNAILS = (96, 192, 256, 384, 1024)


class ViewerHandler(GuardedHandler):
    """A handler with the slides, and threads in which to read them."""

    def initialize(  # type: ignore[override]
        self, study: Study, queue: DecodeQueue, read_only: bool, **access: Any
    ) -> None:
        super().initialize(**access)
        self.study, self.queue, self.read_only = study, queue, read_only
        self._running: Future[Any] | None = None

    async def work(self, function: Callable[[], T]) -> T:
        """Await a function in another thread; it is dropped if the page leaves before its turn."""
        self._running = self.queue.submit(function)
        try:
            return await asyncio.wrap_future(self._running)
        except UsageError as error:
            _log.warning("%s", scrub(str(error)))
            raise HTTPError(400) from None
        except (WsivitError, OSError) as error:
            _log.warning("%s", scrub(str(error)))
            raise HTTPError(422) from None

    def on_connection_close(self) -> None:
        """Drop the work for a page that has gone."""
        if self._running is not None:
            self._running.cancel()

    async def slide(self, key: str) -> ViewedSlide:
        """Return the slide of a key, opened; 404 where there is none."""
        slide = self.study.opened(key) or await self.work(lambda: self.study.open(key))
        if slide is None:
            raise HTTPError(404)
        return slide

    def chosen(self, name: str, among: list[str]) -> str:
        """Return a query argument that must be one of a list; 404 for another."""
        value = self.get_query_argument(name, "")
        if value not in among:
            raise HTTPError(404)
        return value

    def send_json(self, value: object) -> None:
        """Answer with JSON."""
        self.send(json.dumps(value, ensure_ascii=False).encode(), "application/json; charset=utf-8")

    def send(self, body: bytes, kind: str = "application/octet-stream") -> None:
        """Answer with bytes, compressed where that helps."""
        self.set_header("Content-Type", kind)
        if not kind.startswith("image/") and "gzip" in self.request.headers.get("Accept-Encoding", ""):
            compressed = compress(body)
            if compressed is not None:
                self.set_header("Content-Encoding", "gzip")
                body = compressed
        self.finish(body)

    def send_tile(self, answer: TileAnswer) -> None:
        """Answer with a JPEG, or with no content and why."""
        if answer.state == "ok":
            self.send(answer.jpeg, "image/jpeg")
        else:
            self.send_nothing(answer.state)

    def send_nothing(self, why: str) -> None:
        """Answer that there are no pixels: no error, which a browser would print."""
        self.set_header("X-Wsivit-Tile", why)
        self.set_status(204)
        self.finish()


class PageHandler(ViewerHandler):
    """The page. The token in its address is exchanged for a cookie, so that it stays in no history."""

    is_entrance = True

    def get(self) -> None:
        if self.get_query_argument("token", ""):
            if not self.has_token:
                raise HTTPError(403)
            self.set_cookie(self.cookie, self.access.session, httponly=True, samesite="Strict", path="/")
            self.set_status(302)
            self.set_header("Location", "./")
            self.finish()
            return
        self.send(self.application.settings["page_files"]["index.html"][1], "text/html; charset=utf-8")


class FileHandler(ViewerHandler):
    """Scripts and styles of the page: those that were read when the server started, and no others."""

    def get(self, name: str) -> None:
        files = self.application.settings["page_files"]
        if name not in files:
            raise HTTPError(404)
        kind, body = files[name]
        self.set_header("Cache-Control", "private, no-cache")
        self.send(body, kind)


class StudyHandler(ViewerHandler):
    """Rows of the list of slides that are newer than the page's."""

    def get(self) -> None:
        since = self.get_query_argument("since", "0")
        if not since.isdecimal():
            raise HTTPError(400)
        changes = self.study.changes
        self.send_json(
            {
                "changes": changes,
                "complete": self.study.complete,
                "slides": len(self.study),
                "rows": self.study.newer(int(since)),
            }
        )


class SlideHandler(ViewerHandler):
    """What the page needs to know of a slide."""

    async def get(self, key: str) -> None:
        slide = await self.slide(key)
        self.send_json(await self.work(lambda: slide.describe(self.read_only)))


class TileHandler(ViewerHandler):
    """A tile of the slide's pyramid."""

    async def get(self, key: str, pyramid: str, level: str, col: str, row: str) -> None:
        slide = await self.slide(key)
        answer = await self.work(lambda: slide.tile(pyramid, int(level), int(col), int(row)))
        if answer is None:
            self.send_nothing("changed")
        else:
            self.send_tile(answer)


class ThumbnailHandler(ViewerHandler):
    """The complete slide, small; with a run, its heatmap over it."""

    async def get(self, key: str) -> None:
        size = self.get_query_argument("size", "256")
        if not size.isdecimal() or int(size) not in _THUMBNAILS:
            raise HTTPError(400)
        slide = await self.slide(key)
        run = self.chosen("run", shown_runs(slide.require_store())) if self.get_query_argument("run", "") else None
        body, downsample = await self.work(lambda: _thumbnail(slide, int(size), run))
        if not body:
            self.send_nothing("blank")
            return
        self.set_header("X-Wsivit-Downsample", " ".join(f"{value:.17g}" for value in downsample))
        self.send(body, "image/jpeg")


class StoreHandler(ViewerHandler):
    """What a store holds: ``tiles``, ``scores``, ``labels``, ``mask``, ``regions``."""

    async def get(self, key: str, what: str) -> None:
        slide = await self.slide(key)
        store = slide.store
        if store is None:
            raise HTTPError(404)
        if what == "tiles":
            self.send(await self.work(lambda: pack_tiles(store)))
        elif what == "scores":
            run = self.chosen("run", shown_runs(store))
            self.send(await self.work(lambda: pack_scores(store, run)))
        elif what == "mask":
            self.send(await self.work(lambda: _pack_mask(slide)))
        else:
            assert slide.painted is not None
            painted = slide.painted
            name = self.chosen("name", [*store.labels, painted.name])
            column = await self.work(lambda: painted.read() if name == painted.name else store.label(name))
            if what == "labels":
                self.send(_pack_labels(column))
            else:
                self.set_header("Content-Disposition", f'attachment; filename="{slide.source.name}-labels.geojson"')
                self.send_json(await self.work(lambda: label_regions(store, column)))


class PaintHandler(ViewerHandler):
    """Takes a stroke of the brush."""

    async def post(self, key: str) -> None:
        slide = await self.slide(key)
        painted, store = slide.painted, slide.store
        if self.read_only or painted is None or store is None:
            raise HTTPError(409)
        body = self.request.body

        def paint() -> LabelColumn:
            return painted.paint(Stroke.from_json(body, len(store), painted.offered()))

        column = await self.work(paint)
        self.send(_pack_labels(column))
        self.queue.submit(lambda: self.study.refresh(key))


class PatchHandler(ViewerHandler):
    """One tile of the store, as a model sees it."""

    async def get(self, key: str, index: str) -> None:
        slide = await self.slide(key)
        store = slide.store
        if store is None or int(index) >= len(store):
            raise HTTPError(404)

        def read() -> TileAnswer:
            try:
                return store_tile(store, int(index))
            except (WsivitError, OSError):  # also where the slide of a store without pixels is gone
                return UNREADABLE

        self.send_tile(await self.work(read))


class AnnotationHandler(ViewerHandler):
    """Regions that people drew, in level-0 pixels."""

    async def get(self, key: str) -> None:
        slide = await self.slide(key)
        regions = await self.work(lambda: slide.annotations)
        names = list(dict.fromkeys(region.name for region in regions))
        colors = dict(zip(names, class_colors(len(names), -1), strict=True))
        self.send_json([{"name": r.name, "color": colors[r.name], "geometry": mapping(r.geometry)} for r in regions])


class ColorHandler(ViewerHandler):
    """The colours of scores, as every picture has them."""

    async def get(self) -> None:
        self.send(await self.work(_pack_colors))


def _pack_colors() -> bytes:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)
    return pack_arrays({name: score_colors(ramp, name, 0.0, 1.0) for name in COLOR_MAPS})


def _pack_labels(column: LabelColumn) -> bytes:
    colors = class_colors(len(column.classes), -1)
    return pack_arrays({"codes": column.codes}, classes=column.classes, colors=colors)


def _pack_mask(slide: ViewedSlide) -> bytes:
    mask, downsample = slide.require_store().tissue_mask
    return pack_arrays({"mask": mask.astype(np.uint8)}, downsample=downsample)


def _thumbnail(slide: ViewedSlide, size: int, run: str | None) -> tuple[bytes, tuple[float, float]]:
    if run is not None:
        store = slide.require_store()
        pixels = draw_thumbnail(read_heatmap_data(store, run), size)
        width, height = store.parameters.slide_size
        return encode(pixels), (width / pixels.shape[1], height / pixels.shape[0])
    found = slide.thumbnail(size)
    if found is None:
        return b"", (1.0, 1.0)
    pixels, downsample = found
    return encode(pixels), downsample


def routes(arguments: dict[str, Any]) -> list[tuple[str, type[ViewerHandler], dict[str, Any]]]:
    """Return every address that is answered."""
    key = "(?P<key>[0-9a-f]{16}(?:-[0-9]{1,6})?)"
    number = "[0-9]{1,9}"
    place = f"(?P<col>{number})/(?P<row>{number})"
    table: dict[str, type[ViewerHandler]] = {
        "/": PageHandler,
        "/page/([a-z0-9_.-]{1,60})": FileHandler,
        "/study": StudyHandler,
        "/colors": ColorHandler,
        f"/slide/{key}": SlideHandler,
        f"/slide/{key}/tile/(?P<pyramid>p{number})/(?P<level>{number})/{place}": TileHandler,
        f"/slide/{key}/thumbnail": ThumbnailHandler,
        f"/slide/{key}/annotations": AnnotationHandler,
        f"/slide/{key}/patch/(?P<index>{number})": PatchHandler,
        f"/slide/{key}/paint": PaintHandler,
        f"/slide/{key}/(?P<what>tiles|scores|labels|mask|regions)": StoreHandler,
    }
    return [(pattern, handler, arguments) for pattern, handler in table.items()]
