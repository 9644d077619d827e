"""Who may ask this server for what: the rules that every request passes before anything answers it."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tornado.web import HTTPError, RequestHandler

WRITE_HEADER = "X-Wsivit-Write"
"""Header that every write needs: a page of another site cannot send it without asking first, which is refused."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_POLICY_HEADER = "Content-Security-Policy"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Pixels of patients stay out of the browser's cache on disk.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """Secrets of one server, and the names by which it may be called.

    Attributes
    ----------
    hosts : tuple of str
        Allowed in the Host header, with any port: tunnels change it.
    framed : bool
        Whether notebooks on this machine may show the page in a frame.
    token : str
        Opens the page, once in a link; exchanged for a cookie.
    session : str
        Value of that cookie.
    """

    hosts: tuple[str, ...] = LOCAL_HOSTS
    framed: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @classmethod
    def for_hosts(cls, names: Sequence[str], *, framed: bool = False) -> Access:
        """Allow names besides those of this machine."""
        return cls((*LOCAL_HOSTS, *(name.lower() for name in names)), framed)

    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this server: another one comes by DNS rebinding."""
        name, colon, port = header.lower().rpartition(":")
        host = name if colon and port.isdecimal() else header.lower()
        return host in self.hosts

    @property
    def policy(self) -> str:
        """The Content-Security-Policy."""
        return _POLICY.format(ancestors="http://localhost:* http://127.0.0.1:*" if self.framed else "'none'")


class GuardedHandler(RequestHandler):
    """A handler that answers only the page of this server, opened by somebody who has the token."""

    def initialize(self, access: Access, cookie: str, **_: Any) -> None:
        """Take what all handlers of a server share."""
        self.access, self.cookie = access, cookie

    def set_default_headers(self) -> None:
        """Give every answer, refusals too, the headers that keep it in this page."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse what does not come from the page."""
        self.set_header(_POLICY_HEADER, self.access.policy)
        headers = self.request.headers
        if not self.access.allows_host(headers.get("Host", "")):
            raise HTTPError(421)
        navigates = headers.get("Sec-Fetch-Mode") == "navigate" and self.request.method == "GET" and self.is_entrance
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not navigates:
            raise HTTPError(403)
        if not (self.is_known or self.has_token):
            raise HTTPError(403)
        if self.request.method not in ("GET", "HEAD") and headers.get(WRITE_HEADER) != "1":
            raise HTTPError(403)

    is_entrance = False
    """Whether a link of another page may lead here."""

    @property
    def is_known(self) -> bool:
        """Whether the request has the cookie."""
        return _equal(self.get_cookie(self.cookie, "") or "", self.access.session)

    @property
    def has_token(self) -> bool:
        """Whether the request has the token, in its address or as programs send it."""
        given = self.request.headers.get("Authorization", "").removeprefix("token ")
        return _equal(given, self.access.token) or _equal(self.get_query_argument("token", ""), self.access.token)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say what happened in one line, and nothing of what is inside."""
        self.set_header(_POLICY_HEADER, self.access.policy)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": _REASONS.get(status_code, "the viewer failed: see its log")}))


_REASONS = {
    400: "the request makes no sense",
    403: "open the address that wsivit view printed: this one lacks its token, or another site asked",
    404: "there is no such thing",
    405: "not allowed",
    409: "cannot be written: the viewer is read-only, or there is no store",
    421: "this server has another name: give it with --allow-host",
    422: "it cannot be read: see the terminal of wsivit view",
}


def _equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())
