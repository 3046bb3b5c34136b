"""CPython's tests of smtplib, with our connections in the place of Python's."""

from __future__ import annotations

import smtplib
import sys
import unittest
from typing import Any

from email_hosts.smtp.connection import SMTP, SMTP_SSL

from .verdict import WAY, Result, note_broken, prepared


def main() -> int:
    """Run the tests. Return 0 if all is as expected, else 1."""
    if WAY == "smtplib":
        smtplib.SMTP, smtplib.SMTP_SSL = SMTP, SMTP_SSL  # type: ignore[misc]
        complete_mock_socket()
    # No sooner than now: the tests keep the classes that they find.
    suite = unittest.defaultTestLoader.loadTestsFromName("test.test_smtplib")
    result: Any = unittest.TextTestRunner(resultclass=Result).run(prepared(suite))  # type: ignore[arg-type]
    note_broken(result)
    return int(not result.wasSuccessful())


def complete_mock_socket() -> None:
    """Give the mock socket of these tests the method that our connections read with."""
    from test import mock_socket

    def recv_into(self: Any, buffer: memoryview) -> int:
        line: bytes = self.recv(len(buffer))
        buffer[: len(line)] = line
        return len(line)

    mock_socket.MockSocket.recv_into = recv_into


if __name__ == "__main__":
    sys.exit(main())
