"""Pictures behind URLs, from a server on this machine: hosts, redirections, sizes, failures, and what is kept."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from tk.config.sections import MediaSection
from tk.errors import DataError, UsageError
from tk_conformance.videos import write_films
from tk_media.films import described, frames
from tk_media.reading import Reader

ROW = "rows.jsonl:7"
NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "PNG")
    return stream.getvalue()


def film() -> bytes:
    with TemporaryDirectory() as folder:
        return Path(write_films(Path(folder))["a"]).read_bytes()


class Pages(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.partition("?")[0]
        if name == "/a.png":
            self.answer(200, png())
        elif name == "/a.mp4":
            self.answer(200, film())
        elif name == "/moved.png":
            self.answer(302, b"", Location="/a.png")
        elif name == "/elsewhere.png":
            self.answer(302, b"", Location=f"http://localhost:{self.server.server_port}/a.png")
        elif name == "/inside.png":
            self.answer(302, b"", Location="file:///etc/hostname")
        elif name == "/endless.png":
            self.answer(302, b"", Location="/endless.png")
        elif name == "/slow.png":
            time.sleep(3)
            self.answer(200, png())
        elif name == "/broken.png":
            self.answer(200, png()[:50], **{"Content-Length": str(len(png()))})
        elif name == "/page.html":
            self.answer(200, b"<html>no picture</html>")
        else:
            self.answer(404, b"")

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing is told to the terminal."""


class Site:
    """url: of the site. asked: the paths that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        handler = type("Handler", (Pages,), {"asked": self.asked})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site, and a cache that is empty."""
    monkeypatch.setenv("TK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Site()
    yield found
    found.server.shutdown()
    found.server.server_close()


def reader(*hosts: str, **limits: float) -> Reader:
    return Reader(MediaSection(hosts=list(hosts) or ["127.0.0.1"], **limits))


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_picture_is_fetched_once(site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        found = reader().find(f"{site.url}/a.png", ROW)
        assert np.array_equal(np.asarray(reader().picture(found, ROW)), NOISE)
    assert site.asked == ["/a.png"]
    assert kept(tmp_path) == [Path(found)]
    reader().find(f"{site.url}/a.png?other", ROW)
    assert site.asked == ["/a.png", "/a.png?other"]


def test_a_video_is_fetched_like_a_picture(site: Site) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    found = reader().find(f"{site.url}/a.mp4", ROW)
    facts = described(reader(), found, ROW)
    assert facts.frames > 1
    assert len(frames(reader(), found, [0, 1], ROW, (28, 28))) == 2
    assert site.asked == ["/a.mp4"]


@pytest.mark.parametrize("hosts", [["example.org"], ["*.example.org"], ["127.0.0.2"], ["127"], ["27.0.0.1"]])
def test_a_host_that_is_not_allowed_is_never_asked(site: Site, hosts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        reader(*hosts).find(f"{site.url}/a.png", ROW)
    said = f"{ROW}: {site.url}/a.png: the host 127.0.0.1 is not allowed: --media.hosts '[\"127.0.0.1\"]'"
    assert str(caught.value) == said
    assert site.asked == []


def test_no_host_is_allowed_unless_it_is_named(site: Site) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        Reader().find(f"{site.url}/a.png", ROW)


@pytest.mark.parametrize("hosts", [["127.0.0.*"], ["example.org", "127.0.0.1"], ["*"]])
def test_hosts_may_be_patterns(site: Site, hosts: list[str]) -> None:
    assert reader(*hosts).find(f"{site.url}/a.png", ROW)


def test_who_is_named_before_the_host_is_not_the_host(site: Site) -> None:
    port = site.server.server_port
    with pytest.raises(UsageError, match=r"the host 127\.0\.0\.1 is not allowed"):
        reader("example.org").find(f"http://example.org@127.0.0.1:{port}/a.png", ROW)
    assert site.asked == []


def test_a_redirection_within_what_is_allowed(site: Site) -> None:
    found = reader().find(f"{site.url}/moved.png", ROW)
    assert np.array_equal(np.asarray(reader().picture(found, ROW)), NOISE)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("elsewhere.png", r"localhost:\d+/a\.png: the host localhost is not allowed"),
        ("inside.png", r"file:///etc/hostname"),
        ("endless.png", "infinite loop"),
    ],
)
def test_a_redirection_beyond_it_is_refused(site: Site, tmp_path: Path, page: str, reason: str) -> None:
    with pytest.raises((UsageError, DataError), match=rf"^rows\.jsonl:7: .*{reason}"):
        reader().find(f"{site.url}/{page}", ROW)
    assert "/a.png" not in site.asked
    assert kept(tmp_path) == []


def test_a_file_above_the_limit_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    size = len(png())
    with pytest.raises(
        DataError, match=rf"^rows\.jsonl:7: .*a\.png: more than {size - 1:,} bytes \(media\.byte_limit\)"
    ):
        reader(byte_limit=size - 1).find(f"{site.url}/a.png", ROW)
    assert kept(tmp_path) == []
    assert reader(byte_limit=size).find(f"{site.url}/a.png", ROW)


def test_a_page_that_is_not_there(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*gone\.png: the host answers 404 Not Found"):
        reader().find(f"{site.url}/gone.png", ROW)
    assert kept(tmp_path) == []


def test_a_host_that_does_not_answer_in_time(site: Site) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*slow\.png: cannot be fetched: .*timed out"):
        reader(timeout=0.3).find(f"{site.url}/slow.png", ROW)
    assert time.monotonic() - began < 2


def test_an_answer_that_breaks_off_is_an_error_and_not_kept(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*broken\.png"):
        reader().find(f"{site.url}/broken.png", ROW)
    assert kept(tmp_path) == []


def test_a_host_where_nobody_listens(site: Site) -> None:
    site.server.server_close()
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*a\.png: cannot be fetched"):
        reader().find(f"{site.url}/a.png", ROW)


def test_what_is_no_picture_is_told_when_it_is_opened(site: Site) -> None:
    found = reader().find(f"{site.url}/page.html", ROW)
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .* is no picture of a known format"):
        reader().size(found, ROW)


@pytest.mark.parametrize("url", ["http://", "http:///a.png", "https://[", "http://host:port/a.png"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises((UsageError, DataError), match=r"^rows\.jsonl:7: "):
        reader("*").find(url, ROW)
