"""A server that misbehaves at random, and is down now and then."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

from scripted import BODY, CLOSE, HANG, RESET, TAKEN, Accepted, ScriptedServer

FAULTS = {
    "banner": [CLOSE, RESET, HANG, "421 too busy", "554 go away"],
    "EHLO": [CLOSE, HANG, "421 too busy"],
    "MAIL": [CLOSE, RESET, HANG, "421 closing", "451 later", "550 no", "what?"],
    "RCPT": [CLOSE, HANG, "421 closing", "450 later", "550 no such user"],
    "DATA": [CLOSE, RESET, HANG, "421 closing", "451 later", "554 no"],
    "CONTENT": [CLOSE, RESET],
    BODY: [CLOSE, RESET, HANG, TAKEN, TAKEN, "421 closing", "451 later", "554 spam", "what?"],
    "RSET": [CLOSE, "421 closing"],
    "QUIT": [CLOSE, HANG],
}
FAULTS_PER_STEP = 0.01
UP, DOWN = 1.0, 0.2  # seconds, on average


class Chaos:
    """One server on one port, while its ``with`` block runs."""

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311
        self.accepted: list[Accepted] = []
        self.restarts = 0
        self._server = ScriptedServer(self._script)
        self.port = self._server.port
        self._end = threading.Event()
        self._executor = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Chaos:
        self._running = self._executor.submit(self._run)
        return self

    def __exit__(self, *exc_info):
        self._end.set()
        self._executor.shutdown()
        self._running.result()  # raises what it has raised

    def _run(self):
        while True:
            with self._server:
                self._wait(UP)
            self.accepted += self._server.accepted
            self._wait(DOWN)
            if self._end.is_set():
                return
            self._server = ScriptedServer(self._script, port=self.port)
            self.restarts += 1

    def _wait(self, seconds):
        self._end.wait(self.random.expovariate(1 / seconds))

    def _script(self, step, argument):
        if self.random.random() < FAULTS_PER_STEP and step in FAULTS:
            return self.random.choice(FAULTS[step])
        return None
