"""A web server of files that answers for ranges, and a proxy that makes trouble, both on this machine."""

from __future__ import annotations

import base64
import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit


class Server(ThreadingHTTPServer):
    """Counts the requests for data that it gets."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], **facts: Any) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.facts, self.lock = facts, Lock()
        self.requests: list[str] = []
        self.bytes_sent = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no news."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def count(self, what: str) -> int:
        with self.lock:
            self.requests.append(what)
            return len(self.requests)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **facts: Any) -> Iterator[Server]:
    server = Server(handler, **facts)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Files(BaseHTTPRequestHandler):
    """Serves ``facts["files"]`` by path, to ``facts["user"]`` alone; ``facts["status"]`` answers everything."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _refused(self) -> bool:
        user = self.server.facts.get("user")
        expected = f"Basic {base64.b64encode(user.encode()).decode()}" if user else None
        if expected and self.headers.get("Authorization") != expected:
            self._answer(401)
            return True
        if self.server.facts.get("status"):
            self._answer(self.server.facts["status"])
            return True
        return False

    def _answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with self.server.lock:  # counted first: whoever has read them may ask at once
                self.server.bytes_sent += len(data)
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        if self._refused():
            return
        data = self.server.facts["files"].get(urlsplit(self.path).path)
        if data is None:
            self._answer(404)
        else:
            self._answer(200, headers={"Content-Length": str(len(data)), "Accept-Ranges": "bytes"})

    def do_GET(self) -> None:
        if self._refused():
            return
        data = self.server.facts["files"].get(urlsplit(self.path).path)
        if data is None:
            self._answer(404)
            return
        asked = self.headers.get("Range", "")
        self.server.count(asked)
        time.sleep(self.server.facts.get("latency", 0))
        if not asked or self.server.facts.get("whole"):
            self._answer(200, data)
            return
        start, _, last = asked.removeprefix("bytes=").partition("-")
        stop = int(last) + 1 if last else len(data)
        part = data[int(start) : stop]
        span = {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"}
        self._answer(206, part, span)


class Trouble(BaseHTTPRequestHandler):
    """Passes requests on to ``facts["target"]``; of twelve, two fail and one is cut short; of sixty, one stalls."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        body = self._body()
        number = self.server.count(f"{self.command} {urlsplit(self.path).path}")
        fault = "slow" if number % 60 == 9 else {3: "error", 6: "cut", 11: "throttle"}.get(number % 12)
        if fault in ("error", "throttle"):
            self._send(500 if fault == "error" else 503, b"", {})
            return
        if fault == "slow":
            time.sleep(self.server.facts["slow"])
        target = http.client.HTTPConnection(self.server.facts["target"])
        target.request(self.command, self.path, body, dict(self.headers.items()))
        answer = target.getresponse()
        data, headers = answer.read(), dict(answer.getheaders())
        target.close()
        length = int(headers.get("Content-Length", len(data)))
        self._send(answer.status, data[: len(data) // 2] if fault == "cut" else data, headers, length)
        if fault == "cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        del self.headers["Transfer-Encoding"]
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        self.headers["Content-Length"] = str(sum(map(len, parts)))
        return b"".join(parts)

    def _send(self, status: int, data: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response_only(status)
        kept = {
            k: v for k, v in headers.items() if k.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        for name, value in {**kept, "Content-Length": str(len(data) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on
