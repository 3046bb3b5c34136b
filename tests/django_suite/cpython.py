"""CPython's tests of smtplib, with our connections in the place of Python's."""

from __future__ import annotations

import os
import smtplib
import unittest
from pathlib import Path
from typing import Any

from email_hosts.smtp.connection import SMTP, SMTP_SSL

from .verdict import Result


def main() -> None:
    """Run the tests; write their outcome to the file that the environment names."""
    if os.environ["DJANGO_SUITE_WAY"] == "smtplib":
        smtplib.SMTP, smtplib.SMTP_SSL = SMTP, SMTP_SSL  # type: ignore[misc]
        complete_mock_socket()
    # No sooner than now: the tests keep the classes that they find.
    suite = unittest.defaultTestLoader.loadTestsFromName("test.test_smtplib")
    result: Any = unittest.TextTestRunner(resultclass=Result).run(suite)
    result.outcome.write(Path(os.environ["DJANGO_SUITE_OUTCOME"]))


def complete_mock_socket() -> None:
    """Give the mock socket of these tests the method that our connections read with."""
    from test import mock_socket

    def recv_into(self: Any, buffer: memoryview) -> int:
        line: bytes = self.recv(len(buffer))
        buffer[: len(line)] = line
        return len(line)

    mock_socket.MockSocket.recv_into = recv_into


if __name__ == "__main__":
    main()
