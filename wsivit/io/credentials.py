"""Credentials that come in a URL or the environment: used, never told.

A URL may hold a user and password, or a signature in its query. What is shown, logged or kept is `public` of it; the
whole one stays in the memory of this process, where `complete` finds it again. `scrub` takes both kinds of credentials
out of the words of others, such as the errors of a client library.
"""

from __future__ import annotations

import os
import re
import sys

from wsivit.errors import redact_with

HIDDEN = "***"
_USER = re.compile(r"(?<=://)[^/\s?#'\"]*@")
_QUERY = re.compile(r"(://[^\s?'\"<>]*)[?#]([^\s'\"<>]*)")
_HARMLESS = ("versionid=", "generation=")
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|ACCESS_KEY|ACCOUNT_KEY|API_KEY|CONNECTION_STRING|SAS|^FSSPEC_.*KEY", re.I
)
_SECRET_OPTION = re.compile(r"secret|token|passw|key|sas|connection_string", re.I)
_SHORTEST = 8
_given: dict[str, str] = {}


def public(url: str) -> str:
    """Return a URL without user, password and query (but for a version), and remember the whole one."""
    shown = _without(url)
    if shown != url:
        _given[shown] = url
    return shown


def complete(url: str) -> str:
    """Return a URL as it was given to this process, with its credentials."""
    return _given.get(url, url)


def scrub(text: str) -> str:
    """Take credentials out of a text: those in its URLs, and those that this process was given."""
    if "://" in text:
        text = _without(text)
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def _without(text: str) -> str:
    return _QUERY.sub(_keep_version, _USER.sub("", text))


def _keep_version(match: re.Match[str]) -> str:
    pairs = [pair for pair in match[2].split("&") if pair.lower().startswith(_HARMLESS)]
    ending = "" if pairs or not match[2] or match[2][-1] not in ":;,.)" else match[2][-1]
    return match[1] + ("?" + "&".join(pairs) if pairs else "") + ending


def _secrets() -> set[str]:
    """Values that must not be told, long enough not to be words by chance."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    found |= {part for url in _given.values() for part in _parts(url)}
    config = getattr(sys.modules.get("fsspec.config"), "conf_dict", {})
    for options in config.values():
        if isinstance(options, dict):
            found |= {str(value) for name, value in options.items() if _SECRET_OPTION.search(name)}
    return {value for value in found if len(value) >= _SHORTEST}


def _parts(url: str) -> list[str]:
    """User, password and values of the query of a URL."""
    parts = [part for user in _USER.findall(url) for part in (user[:-1], *user[:-1].split(":", 1))]
    for _, query in _QUERY.findall(url):
        parts += [pair.partition("=")[2] for pair in query.split("&") if not pair.lower().startswith(_HARMLESS)]
    return parts


redact_with(scrub)
