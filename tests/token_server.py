"""A token server on loopback: the token endpoint of an OAuth 2.0 provider. Or another API."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl


class TokenServer(ThreadingHTTPServer):
    """Gives these answers in turn, while its ``with`` block runs, and the last one for ever.

    Without answers, the tokens are token-1, token-2, and so on, each good for an hour. An
    answer is the body, or what answers in its place. One with an ``error`` has the status
    400, or else the one in ``status``.
    """

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/token"
        self.answers = answers
        self.requests: list[Any] = []  # each with its body
        self.forms: list[dict[str, str]] = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=[0.01]).start()
        return self

    def __exit__(self, *exc_info):
        self.shutdown()
        self.server_close()

    def start_tls(self, context):
        """Speak HTTPS from now on. Nobody may be connected yet."""
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server: Any = self.server
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        server.requests.append(self)
        server.forms.append(dict(parse_qsl(self.body.decode())))
        number = len(server.forms)
        answer: Any = {"access_token": f"token-{number}", "expires_in": 3600}
        if server.answers:
            answer = server.answers[min(number, len(server.answers)) - 1]
        if callable(answer):
            answer(self)
            return
        status = 200
        if isinstance(answer, dict):
            status = answer.get("status", 400 if "error" in answer else 200)
            answer = json.dumps(answer).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Say nothing."""
