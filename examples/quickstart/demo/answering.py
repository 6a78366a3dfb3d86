"""The little HTTP server both demo services are made of: JSON in, JSON out, standard library only."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[str, str, dict[str, str], bytes], tuple[int, object]]
"""(method, path, headers by lower-case name, body) -> (status, JSON value)"""

LARGEST_BODY = 1 << 20


def serve(answer: Answer) -> None:
    """Answers on $HOST:$PORT until SIGTERM. /health is answered here."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            length = min(int(self.headers.get("Content-Length") or 0), LARGEST_BODY)
            body = self.rfile.read(length)
            path = self.path.partition("?")[0]
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, value = (200, {"status": "ok"}) if path == "/health" else answer(self.command, path, headers, body)
            content = json.dumps(value).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            if not self.path.startswith("/health"):
                super().log_message(format, *args)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    at = (os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"]))
    with ThreadingHTTPServer(at, Handler) as server:
        server.daemon_threads = True
        server.serve_forever()
