"""Stands for any of the nineteen services: `python demo/service.py ticket` says what reached it, and under which name.

`/health` and `/metrics` answer as the real ones would. `?status=503` and `?after=2` make it fail or dawdle, so that a
circuit can be seen to open and a time-out to come: that is for this example alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NAME = sys.argv[1] if len(sys.argv) > 1 else "service"
LONGEST_BODY = 50_000_000
LONGEST_WAIT_S = 130.0
CALLER = ("x-user-id", "x-tenant-id", "x-user-roles")


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = 0

    def answer(self) -> None:
        target = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(target.query).items()}
        body = self.rfile.read(min(int(self.headers.get("content-length") or 0), LONGEST_BODY))
        time.sleep(min(float(asked.get("after", 0)), LONGEST_WAIT_S))
        Service.answered += 1
        status = int(asked.get("status", 200))
        match target.path:
            case "/health":
                self.send(status, "application/json", json.dumps({"status": "ok", "service": NAME}))
            case "/metrics":
                self.send(status, "text/plain", f'requests_total{{service="{NAME}"}} {Service.answered}\n')
            case path:
                caller = {name: self.headers[name] for name in CALLER if name in self.headers}
                seen = {"service": NAME, "method": self.command, "path": path, "caller": caller, "bytes": len(body)}
                self.send(status, "application/json", json.dumps(seen) + "\n")

    def send(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  # the base class's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Quiet: the gateway is where requests are logged."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Service) as server:
        server.daemon_threads = True
        server.serve_forever()
