"""A handler of the log may send mail, and may fail, and no send suffers from it."""

import logging

import pytest
from conftest import mails
from scripted import to

from email_hosts.backends import RoutingBackend, get_connection
from email_hosts.exceptions import AllHostsFailed
from email_hosts.log import logger


class SoftTimeLimitExceeded(Exception):
    """Of a task queue."""

    __module__ = "billiard.exceptions"


class Mailing(logging.Handler):
    """Mails what is logged through the host that it is about, and then fails."""

    error: type[Exception] = RuntimeError

    def emit(self, record):
        get_connection("all").send_messages(mails("admin"))
        raise self.error


@pytest.fixture
def spare(serve, closed_port, settings):
    server = serve(to("refused", "550 no"))
    settings.EMAIL_HOSTS = {
        "down": f"smtp://127.0.0.1:{closed_port}",
        "spare": f"smtp://127.0.0.1:{server.port}",
        "all": "failover:down,spare",
    }
    settings.EMAIL_HOSTS_ROUTER = lambda message: "spare"
    return server


@pytest.fixture(autouse=True)
def handler(spare):
    logger.addHandler(handler := Mailing())
    yield handler
    logger.removeHandler(handler)


def test_mail_about_a_failure_comes_first_and_the_message_next(spare):
    assert get_connection("all").send_messages(mails("someone")) == 1
    assert [one.recipients[0] for one in spare.accepted] == [
        "admin@example.net",
        "someone@example.net",
    ]


def test_mail_about_a_failure_that_fails_itself_has_an_end(settings):
    settings.EMAIL_HOSTS |= {"all": "failover:down"}
    with pytest.raises(AllHostsFailed):
        get_connection("all").send_messages(mails("someone"))


@pytest.mark.parametrize("make", [RoutingBackend, lambda **o: get_connection("spare", **o)])
def test_time_limit_of_a_task_arrives(make, handler):
    """A handler may take its time: it may send mail."""
    handler.error = SoftTimeLimitExceeded
    with pytest.raises(SoftTimeLimitExceeded):
        make(fail_silently=True).send_messages(mails("refused"))
