"""The web server: one port of this machine, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from importlib.resources import files

from tornado.httpserver import HTTPServer
from tornado.web import Application

from wsivit.errors import OutputError
from wsivit.viewer.access import Access
from wsivit.viewer.decode_queue import DecodeQueue
from wsivit.viewer.handlers import ViewerHandler, routes
from wsivit.viewer.study import Study

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_LONGEST_BODY = 4 << 20
_BACKLOG = 128


class Server:
    """Serves a study until it is closed.

    Parameters
    ----------
    study : Study
    access : Access
    host : str
        Address to listen at.
    port : int
        0 for a free one.
    read_only : bool

    Raises
    ------
    OutputError
        If the port cannot be opened.
    """

    def __init__(self, study: Study, access: Access, host: str, port: int, *, read_only: bool) -> None:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise OutputError(
                f"port {port} of {host} cannot be opened ({error.strerror}); give another with --port"
            ) from error
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._study, self._queue = study, DecodeQueue()
        self._arguments = {
            "study": study,
            "queue": self._queue,
            "read_only": read_only,
            "access": access,
            "cookie": f"wsivit-{self.port}",
        }
        self._ended, self._started = threading.Event(), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wsivit-view", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._study.start()
        self._thread.start()
        self._started.wait()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the server is closed; whether it is."""
        return self._ended.wait(seconds)

    def close(self) -> None:
        """Stop answering, and end all threads."""
        if not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._queue.close()
            self._study.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> HTTPServer:
            application = Application(
                [*routes(self._arguments), (".*", _NotFoundHandler, self._arguments)],
                page_files=page_files(),
                log_function=lambda handler: None,  # addresses hold the token
            )
            server = HTTPServer(application, max_body_size=_LONGEST_BODY, max_buffer_size=2 * _LONGEST_BODY)
            server.add_socket(self._socket)
            return server

        server = self._loop.run_until_complete(listen())
        self._loop.call_soon(self._started.set)
        try:
            self._loop.run_forever()
        finally:
            server.stop()
            self._loop.run_until_complete(server.close_all_connections())
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()
            self._ended.set()


class _NotFoundHandler(ViewerHandler):
    def prepare(self) -> None:
        super().prepare()
        self.send_error(404)


def page_files() -> dict[str, tuple[str, bytes]]:
    """Return the files of the page by name, each with its type: ours, and Leaflet's from its package."""
    found: dict[str, tuple[str, bytes]] = {}
    own = files("wsivit.viewer") / "page"
    leaflet = files("xstatic.pkg.leaflet") / "data"
    for file in [*own.iterdir(), leaflet / "leaflet.js", leaflet / "leaflet.css"]:
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            body = file.read_bytes()
            # Without the line that sends developer tools to a file that is not served.
            found[file.name] = kind, body.replace(b"//# sourceMappingURL=leaflet.js.map", b"")
    return found
