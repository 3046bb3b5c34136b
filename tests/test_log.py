"""A handler of the log may send mail, and may fail, and no send suffers from it."""

import logging

import pytest
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts.backends import get_connection
from email_hosts.exceptions import AllHostsFailed
from email_hosts.log import logger


class Mailing(logging.Handler):
    """Mails what is logged through the host that it is about, and then fails."""

    def emit(self, record):
        alert = EmailMessage(
            "Log", record.getMessage(), "a@example.com", ["admin@example.net"]
        )
        get_connection("safe").send_messages([alert])
        raise RuntimeError


@pytest.fixture(autouse=True)
def mailing_handler():
    logger.addHandler(handler := Mailing())
    yield
    logger.removeHandler(handler)


def test_mail_about_a_failure_comes_first_and_the_message_next(serve, closed_port, message):
    spare = serve()
    hosts = {
        "down": f"smtp://127.0.0.1:{closed_port}",
        "spare": f"smtp://127.0.0.1:{spare.port}",
        "safe": "failover:down,spare",
    }
    with override_settings(EMAIL_HOSTS=hosts):
        assert get_connection("safe").send_messages([message]) == 1
    assert [one.recipients[0] for one in spare.accepted] == [
        "admin@example.net",
        "someone@example.net",
    ]


def test_mail_about_a_failure_that_fails_itself_has_an_end(closed_port, message):
    hosts = {"down": f"smtp://127.0.0.1:{closed_port}", "safe": "failover:down"}
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(AllHostsFailed):
        get_connection("safe").send_messages([message])
