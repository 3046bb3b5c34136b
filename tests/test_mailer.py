"""What a mailer is, also where its backend is a subclass of ours."""

from typing import Any

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.test import override_settings

from email_hosts import mailer
from email_hosts.backends import FailoverBackend, RoutingBackend, get_connection
from email_hosts.checks import check_hosts
from email_hosts.dsn import parse
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost


class Several(FailoverBackend):
    """A failover of the project."""


class Router(RoutingBackend):
    """A router of the project."""


SEVERAL = f"{__name__}.Several"
ROUTER = f"{__name__}.Router"


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"backend://{SEVERAL}?hosts=a,b", ("a", "b")),
        (f"backend://{SEVERAL}?hosts=a,b&_server_email=c@example.com", ("a", "b")),
        ("backend://not.there?hosts=a,b", ()),
    ],
)
def test_members_are_those_of_a_subclass_too(dsn, expected):
    assert mailer.members(parse(dsn)) == expected


def test_mailer_must_be_a_dict():
    entry: Any = "smtp://Kx7vQz9@h"
    with pytest.raises(
        InvalidEmailHost, match=r"^each entry of MAILERS must be a dict, not str"
    ):
        mailer.backend_of(entry)


class TestSubclass:
    """A subclass counts as what it inherits from, and never recurses."""

    @pytest.fixture(autouse=True)
    def hosts(self, settings):
        settings.EMAIL_HOSTS = {
            "a": f"backend://{SEVERAL}?hosts=b",
            "b": f"backend://{SEVERAL}?hosts=a",
            "router": f"backend://{ROUTER}",
        }

    def test_that_leads_back_to_itself_is_refused(self):
        with pytest.raises(InvalidEmailHost, match="in a cycle: a -> b -> a"):
            get_connection("a")

    @override_settings(EMAIL_HOSTS_ROUTER=lambda message: "router")
    def test_that_routes_is_no_host_of_the_router(self):
        message = EmailMessage("Hello", "World", to=["a@example.net"])
        with pytest.raises(InvalidEmailHost, match="it sends through the router"):
            Router().send_messages([message])

    def test_is_checked(self):
        assert [error.id for error in check_hosts(None)] == 3 * ["email_hosts.E004"]

    @needs_mailers
    @override_settings(MAILERS={"default": {"BACKEND": ROUTER}})
    def test_as_default_mailer_is_no_host(self):  # pragma: mailers-only
        with pytest.raises(EmailHostDoesNotExist, match="there is no such host"):
            mail.mailers["default"].send_messages([EmailMessage(to=["a@example.net"])])
