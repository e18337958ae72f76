"""Files behind URLs: only from hosts that were allowed, only so large, and once."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from fnmatch import fnmatch
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tk.config.sections import MediaSection
from tk.errors import DataError, UsageError
from tk.files import cache_root

CHUNK = 1 << 16


class Refused(UsageError):
    """A host that was not allowed."""


def fetched(url: str, section: MediaSection, within: float = math.inf) -> Path:
    """The file behind a URL, from the cache where it was fetched before. within: seconds in which all of it has to come.

    Raises UsageError for a host that is not in `media.hosts`, also after a redirection, and DataError where the file
    cannot be had or is too large.
    """
    allow(url, section)
    end = time.monotonic() + within
    place = cache_root() / "media" / hashlib.sha256(url.encode()).hexdigest()
    if place.is_file():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    request = Request(url, headers={"User-Agent": "tk"})
    try:
        with build_opener(_Redirects(section)).open(request, timeout=section.timeout) as answer:
            _keep(answer, place, url, section.byte_limit, end)
    except HTTPError as error:
        raise DataError(f"{url}: the host answers {error.code} {error.reason}") from error
    except (URLError, OSError, HTTPException) as error:
        raise DataError(f"{url}: cannot be fetched: {getattr(error, 'reason', None) or error}") from error
    return place


def allow(url: str, section: MediaSection) -> None:
    """Raises UsageError unless the URL's host is one of those that media may come from."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise Refused(f"{url}: is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(f"{url}: media come from http and https URLs, files, data URLs and bytes.")
    if not any(fnmatch(host, pattern.lower()) for pattern in section.hosts):
        raise Refused(f"{url}: the host {host} is not allowed: --media.hosts '[\"{host}\"]'")


class _Redirects(HTTPRedirectHandler):
    def __init__(self, section: MediaSection) -> None:
        self._section = section

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allow(newurl, self._section)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _keep(answer: HTTPResponse, place: Path, url: str, limit: int, end: float) -> None:
    """Write what comes beside its place, and put it there when it is whole."""
    handle, name = tempfile.mkstemp(dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            size, whole = 0, answer.length
            while size != whole and (chunk := answer.read1(CHUNK)):  # what there is: `read` waits for all of it
                size += len(chunk)
                if time.monotonic() > end:
                    raise DataError(f"{url}: has not come in time")
                if size > limit:
                    raise DataError(f"{url}: more than {limit:,} bytes (media.byte_limit)")
                file.write(chunk)
        if whole is not None and size != whole:  # http.client tells of what is missing only where all is read at once
            raise DataError(f"{url}: the answer breaks off after {size:,} bytes")
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
