"""CPython's tests of smtplib, with our connections in the place of Python's."""

import smtplib
import unittest

from test import mock_socket

from email_hosts.smtp.connection import SMTP, SMTP_SSL


def recv_into(self, buffer):
    """Read as our connections do, from the mock socket of these tests."""
    line = self.recv(len(buffer))
    buffer[: len(line)] = line
    return len(line)


mock_socket.MockSocket.recv_into = recv_into
smtplib.SMTP, smtplib.SMTP_SSL = SMTP, SMTP_SSL  # type: ignore[misc]
# No sooner than now: the tests keep the classes that they find.
unittest.main("test.test_smtplib")
