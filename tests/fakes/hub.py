"""A Hugging Face hub on loopback: lookups, redirects to a second host name for the bytes, ranges, refusals, cuts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "c0de"
TOKEN = "hf_test"
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/.+)?")


@dataclass
class Served:
    """One file: what the bytes are, and what the hub says they are."""

    data: bytes
    digest: str = ""
    """The announced SHA-256; empty announces the right one."""

    def announced(self) -> str:
        return self.digest or hashlib.sha256(self.data).hexdigest()


@dataclass
class Hub:
    """What it serves, how it misbehaves, and what it was asked."""

    files: dict[str, dict[str, Served]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_at_bytes: int | None = None
    """Close the next answer there, once."""
    stall_at_bytes: int | None = None
    """Send nothing after this, until ``go_on``."""
    go_on: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    ignores_ranges: bool = False
    has_checksums: bool = True
    commit: str = COMMIT
    hides_bytes: int = 0
    """How much less than the truth it announces."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, Range."""
    cdn_saw_token: bool = False

    def add(self, repo: str, file: str, data: bytes, digest: str = "") -> None:
        self.files.setdefault(repo, {})[file] = Served(data, digest)

    def ranges(self) -> list[str | None]:
        """Of the requests for bytes, in order."""
        return [asked for method, path, asked in self.asked if method == "GET" and path.startswith("/cdn/")]


class HubServer(ThreadingHTTPServer):
    """Listens on a port of its own; ``with`` starts and stops it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = Hub()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hub.go_on.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        hub.asked.append((self.command, self.path, self.headers.get("Range")))
        if self.path.startswith("/cdn/"):
            self._bytes()
        elif match := _RESOLVE.fullmatch(self.path):
            self._resolve(match["repo"], match["file"])
        elif match := _API.fullmatch(self.path):
            self._describe(match["repo"])
        else:
            self._refuse(404, "")

    def _is_refused(self, repo: str) -> bool:
        hub = self.server.hub
        if repo not in hub.files:
            self._refuse(401, "RepoNotFound")  # as the real one answers those it does not know
            return True
        if repo in hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "GatedRepo")
            return True
        return False

    def _resolve(self, repo: str, file: str) -> None:
        if self._is_refused(repo):
            return
        served = self.server.hub.files[repo].get(file)
        if served is None:
            self._refuse(404, "EntryNotFound")
            return
        self.send_response(302)
        self.send_header("X-Repo-Commit", self.server.hub.commit)
        if self.server.hub.has_checksums:
            self.send_header("X-Linked-Etag", f'"{served.announced()}"')
        else:
            self.send_header("ETag", '"0123456789abcdef0123456789abcdef01234567"')
        self.send_header("X-Linked-Size", str(len(served.data) - self.server.hub.hides_bytes))
        self.send_header("Location", f"http://localhost:{self.server.server_port}/cdn/{repo}/{file}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _describe(self, repo: str) -> None:
        if self._is_refused(repo):
            return
        names = [{"rfilename": name} for name in ("README.md", *self.server.hub.files[repo])]
        body = json.dumps({"id": repo, "sha": COMMIT, "siblings": names, "cardData": {"license": "mit"}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _bytes(self) -> None:
        hub = self.server.hub
        hub.cdn_saw_token |= "Authorization" in self.headers
        owner, name, file = self.path.removeprefix("/cdn/").split("/", 2)
        data = hub.files[f"{owner}/{name}"][file].data
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and not hub.ignores_ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if hub.cut_at_bytes is not None:
            self.wfile.write(data[start : hub.cut_at_bytes])
            hub.cut_at_bytes = None
            self.close_connection = True
            return
        if hub.stall_at_bytes is not None:
            self.wfile.write(data[start : hub.stall_at_bytes])
            hub.stalled.set()
            hub.go_on.wait(60)
            start = max(start, hub.stall_at_bytes)
        self.wfile.write(data[start:])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
