"""A hub on the loopback device: one repository, and which of its files were asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves a folder as the repository ``name``, as far as `huggingface_hub` asks."""

    folder: Path
    name: str
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    """Files that a request was made for, whether for their bytes or for their size alone."""

    def environment(self, cache: Path) -> dict[str, str]:
        """Return what makes a process ask this hub and keep what it gets in ``cache``."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def files(self) -> dict[str, bytes]:
        """Return the repository's files."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


@contextmanager
def serve(folder: Path, name: str) -> Iterator[Hub]:
    """Serve ``folder`` while the context lasts."""
    hub = Hub(folder, name)

    class Handler(_Handler):
        repository = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    repository: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.repository
        files = hub.files()
        api, resolve = f"/api/models/{hub.name}", f"/{hub.name}/resolve/"
        if path.startswith(f"{api}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": _hash(data)}
                for name, data in files.items()
            ]
            return self._send(json.dumps(tree).encode(), body)
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in files]
            info = {"id": hub.name, "sha": COMMIT, "siblings": siblings}
            return self._send(json.dumps(info).encode(), body)
        if path.startswith(resolve):
            name = path.removeprefix(resolve).partition("/")[2]
            hub.asked.append(name)
            if name in files:
                headers = {"ETag": f'"{_hash(files[name])}"', "X-Repo-Commit": COMMIT}
                return self._send(files[name], body, headers)
        return self._send(b"{}", body, {"X-Error-Code": "RepoNotFound"}, status=404)

    def _send(
        self, data: bytes, body: bool, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
