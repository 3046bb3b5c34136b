"""A token server on loopback: the token endpoint of an OAuth 2.0 provider. Or another API."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl


class TokenServer:
    """Gives these answers in turn, while its ``with`` block runs, and the last one for ever.

    Without answers, the tokens are token-1, token-2, and so on, each good for an hour. An
    answer is the body, or what answers in its place. One with an ``error`` has the status
    400, or else the one in ``status``.
    """

    def __init__(self, *answers):
        self.requests: list[Any] = []  # each with its body
        self.forms: list[dict[str, str]] = []
        self.tunnels: list[str] = []  # that it was asked for, as a proxy
        self._answers: tuple[Any, ...] = answers
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server.answer(self)

            def do_CONNECT(self):
                server.tunnels.append(self.path)
                self.send_error(502, "no")

            def log_message(self, *args):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def start_tls(self, context):
        """Speak HTTPS from now on. Nobody may be connected yet."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def answer(self, request):
        """Answer one request."""
        request.body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append(request)
        self.forms.append(dict(parse_qsl(request.body.decode())))
        number = len(self.forms)
        answer: Any = {"access_token": f"token-{number}", "expires_in": 3600}
        if self._answers:
            answer = self._answers[min(number, len(self._answers)) - 1]
        if callable(answer):
            answer(request)
            return
        status = 200
        if isinstance(answer, dict):
            status = answer.get("status", 400 if "error" in answer else 200)
            answer = json.dumps(answer).encode()
        request.send_response(status)
        request.end_headers()
        request.wfile.write(answer)
