"""Credentials in URLs and the environment: used, never displayed or stored.

A URL may hold a user and password, or a signature in its query. Messages, logs and stores get `public` of it; the
complete one stays in the memory of this process, where `complete` finds it again. `scrub` removes both kinds of
credentials from the text of others, such as the errors of a client library.
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
_SHORTEST = 8  # characters: shorter values may be words by chance
_given: dict[str, str] = {}


def public(url: str) -> str:
    """Return a URL without user, password and query (but for a version), and remember the complete one."""
    stripped = _without(url)
    if stripped != url:
        _given[stripped] = url
    return stripped


def complete(url: str) -> str:
    """Return a URL as it was given to this process, with its credentials."""
    return _given.get(url, url)


def scrub(text: str) -> str:
    """Remove credentials from a text: those in its URLs, and those that this process was given."""
    if "://" in text:
        text = _without(text)
    secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    for url in _given.values():
        for user in _USER.findall(url):
            secrets |= {user[:-1], *user[:-1].split(":", 1)}
        for _, query in _QUERY.findall(url):
            pairs = query.split("&")
            secrets |= {pair.partition("=")[2] for pair in pairs if not pair.lower().startswith(_HARMLESS)}
    config = getattr(sys.modules.get("fsspec.config"), "conf_dict", {})
    for options in config.values():
        if isinstance(options, dict):
            secrets |= {str(value) for name, value in options.items() if _SECRET_OPTION.search(name)}
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


def _without(text: str) -> str:
    def keep_version(match: re.Match[str]) -> str:
        pairs = [pair for pair in match[2].split("&") if pair.lower().startswith(_HARMLESS)]
        # Punctuation after a URL in a sentence is not part of it.
        ending = "" if pairs or not match[2] or match[2][-1] not in ":;,.)" else match[2][-1]
        return match[1] + ("?" + "&".join(pairs) if pairs else "") + ending

    return _QUERY.sub(keep_version, _USER.sub("", text))


redact_with(scrub)
