"""A look at the pages over http: this machine only, this folder only, and no listings."""

import mimetypes
import os
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from madeleine_bench.errors import InputError

_HOST = "127.0.0.1"
_HEADERS = {
    # The pages carry the rest of their policy themselves; these parts only work as headers.
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def serve(folder: Path, port: int, ready: Callable[[str], None] | None = None) -> None:
    """Serve a folder on 127.0.0.1 until interrupted; `ready` is told the address.

    Port 0 takes any that is free.

    Raises:
        InputError: the folder holds no pages, or the port cannot be had.
    """
    with open_server(folder, port) as server:
        try:
            if ready is not None:
                ready(address(server))
            server.serve_forever()
        except KeyboardInterrupt:
            return


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server that is bound and not yet running.

    Raises:
        InputError: the folder holds no pages, or the port cannot be had.
    """
    if not (folder / "index.html").is_file():
        raise InputError(f"{folder} holds no index.html; build the pages there first")
    if not 0 <= port <= 65535:
        raise InputError(f"{port} is no port: give 1 to 65535, or 0 for any that is free")
    root = folder.resolve()

    class Handler(_PageHandler):
        folder = root

    try:
        return _Server((_HOST, port), Handler)
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used ({error.strerror}); choose another, or 0 for any"
        ) from error


def address(server: ThreadingHTTPServer) -> str:
    """Return the address under which a server answers."""
    return f"http://{_HOST}:{server.server_port}/"


def file_behind(folder: Path, request: str) -> Path | None:
    """Return the file a request names; None for folders, hidden files and whatever lies outside."""
    path = unquote(urlsplit(request).path)
    parts = PurePosixPath(path.lstrip("/") or "index.html").parts
    if not parts or "\0" in path or "\\" in path or any(part.startswith(".") for part in parts):
        return None
    root = folder.resolve()
    try:
        found = root.joinpath(*parts).resolve()
        return found if found.is_relative_to(root) and found.is_file() else None
    except OSError:  # a name longer than the file system takes
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # On Windows the option would let two servers share a port silently; elsewhere it only skips
    # the wait after the last one ended.
    allow_reuse_address = os.name == "posix"


class _PageHandler(BaseHTTPRequestHandler):
    folder: Path
    server_version = "mbench"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the file's headers."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if not self._is_for_us():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = file_behind(self.folder, self.path)
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _content_type(path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _is_for_us(self) -> bool:
        # A hostile site can point its own name at 127.0.0.1 (DNS rebinding) and read the answer.
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        return host in (_HOST, "localhost")

    def end_headers(self) -> None:
        """Add the security headers to every answer, errors too."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the terminal belongs to the command."""


def _content_type(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
