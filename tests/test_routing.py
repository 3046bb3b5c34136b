"""A default backend that picks a host for each message."""

import logging
import re
import smtplib
from typing import Any
from unittest import mock

import pytest
from conftest import Recorder, needs_mailers, told
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends import locmem, smtp
from django.test import override_settings
from django.utils.log import AdminEmailHandler
from scripted import CLOSE, any_of, at, to

from email_hosts import backends, mailers
from email_hosts.backends import RoutingBackend, connection_from_dsn, get_connection
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.testing import real_hosts

ROUTING = "email_hosts.backends.RoutingBackend"
SENDER = "?_default_from_email=shop@example.com"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'fail_silently' argument is deprecated"),
]


class Site:
    """A project with a host for each of three servers."""

    def __init__(self, serve: Any) -> None:
        self.servers = {key: serve() for key in ("shop", "club", "default")}
        self.hosts = {
            key: f"smtp://127.0.0.1:{server.port}?timeout=20"
            for key, server in self.servers.items()
        }
        self.hosts["shop"] += "&_default_from_email=The Shop <shop@example.com>"
        self.hosts["club"] += "&_default_from_email=club@bücher.example"

    def recipients(self) -> dict[str, list[str]]:
        """Return who got mail, by host."""
        return {
            key: [recipient for one in server.accepted for recipient in one.recipients]
            for key, server in self.servers.items()
            if server.accepted
        }


@pytest.fixture
def site(serve):
    """Its default backend routes."""
    site = Site(serve)
    with override_settings(EMAIL_BACKEND=ROUTING, EMAIL_HOSTS=site.hosts):
        yield site


def message(from_email: str, to: str = "a@example.net") -> Any:
    return EmailMessage("Hello", "World", from_email, [to])


def test_code_that_never_heard_of_hosts_is_routed(site):
    mail.send_mail("Hello", "World", "Somebody <SHOP@example.com>", ["a@example.net"])
    message("me@example.com", "b@example.net").send()
    with override_settings(SERVER_EMAIL="info@xn--bcher-kva.example"):
        mail.mail_admins("Alert", "!")
    message("me@elsewhere.example", "c@example.net").send()
    assert site.recipients() == {
        "shop": ["a@example.net", "b@example.net"],
        "club": ["admin@example.com"],
        "default": ["c@example.net"],
    }


def club(message: EmailMessage) -> str | None:
    """A project's own router."""
    return "club" if message.subject == "Hello" else None


def test_router_of_the_project_picks_the_host(site, settings):
    settings.EMAIL_HOSTS_ROUTER = f"{__name__}.club"
    message("shop@example.com").send()
    EmailMessage("Other", "", "shop@example.com", ["b@example.net"]).send()
    assert site.recipients() == {"club": ["a@example.net"], "default": ["b@example.net"]}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (lambda: "wrapped", "it asks the router"),
        (lambda: "nobody", r"known hosts: .*; EMAIL_HOSTS_ROUTER \(.*\) returned this key"),
        (lambda: "smtp://Kx7vQz9:Wj4bYt2@h", r"\(.*\) returned a DSN: .* must not be a DSN"),
        (lambda: get_connection("wrapped"), r"EMAIL_HOSTS_ROUTER \(.*router\)"),
        (lambda: message("shop@example.com").send(), "the router sends mail through itself"),
    ],
)
def test_router_must_find_another_host(found, reason, site, caplog):
    def router(asked: EmailMessage) -> Any:
        return found()

    hosts = {**site.hosts, "wrapped": f"backend://{ROUTING}?_server_email=a@b"}
    with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=router):
        with pytest.raises(InvalidEmailHost, match=reason) as caught:
            RoutingBackend().send_messages([message("shop@example.com")])
        silent = RoutingBackend(fail_silently=True)
        assert silent.send_messages([message("shop@example.com")]) == 0
    assert re.search(reason, caplog.text)
    assert "Kx7vQz9" not in caplog.text + str(caught.value)
    assert message("shop@example.com").send() == 1


@pytest.mark.parametrize(
    ("router", "error", "told"),
    [
        (mock.Mock(return_value=b"x:Kx7vQz9@h"), TypeError, r"\(.*\.Mock\) .* not bytes$"),
        (mock.Mock(side_effect=KeyError("x@y.example")), KeyError, "^'x@y.example'$"),
    ],
)
def test_mistake_of_the_router_ends_the_send(router, error, told, site, settings):
    settings.EMAIL_HOSTS_ROUTER = router
    batch = [message("x@y.example"), message("shop@example.com")]
    with pytest.raises(error, match=told) as caught:
        RoutingBackend(fail_silently=True).send_messages(batch)
    assert (caught.value.sent, caught.value.unsent) == ([], batch)
    assert site.recipients() == {}


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("smtp://127.0.0.1:{}", ConnectionRefusedError),
        ("smpt://h", InvalidEmailHost),
        ("", EmailHostDoesNotExist),
    ],
)
def test_failure_of_one_host_is_its_own(dsn, error, site, closed_port, settings, caplog):
    batch = [message("x@y.example", f"{name}@example.net") for name in ("d1", "c", "d2", "s")]
    settings.EMAIL_HOSTS = {**site.hosts, "down": dsn.format(closed_port)}
    hosts = {"d": "down", "c": "club", "s": "shop"}
    settings.EMAIL_HOSTS_ROUTER = lambda message: hosts[message.to[0][0]]
    with pytest.raises(error) as caught:
        RoutingBackend().send_messages(batch)
    assert (caught.value.sent, caught.value.unsent) == (batch[1::2], batch[::2])
    assert RoutingBackend(fail_silently=True).send_messages(batch) == 2
    assert site.recipients() == {"club": ["c@example.net"] * 2, "shop": ["s@example.net"] * 2}
    assert 'host "down"' in caplog.text
    assert error.__name__ in caplog.text


def test_member_of_its_host_that_is_not_valid_is_passed_over(site, settings):
    settings.EMAIL_HOSTS = {**site.hosts, "bad": "smpt://h", "both": "failover:bad,shop"}
    settings.EMAIL_HOSTS_ROUTER = lambda message: "both"
    assert message("x@y.example").send() == 1


def test_each_message_of_a_list_is_tried(site, caplog):
    """Over one connection to each host. An error that is not the first is logged."""
    for key in ("shop", "club"):
        site.servers[key].script = to("2@", "550 no")
    senders = ["shop@example.com", "club@bücher.example"]
    batch = [message(sender, f"{i}@example.net") for sender in senders for i in range(5)]
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        RoutingBackend().send_messages(batch)
    error: Any = caught.value
    assert error.unsent == batch[2::5]
    assert site.recipients()["shop"] == [one.to[0] for one in error.sent[:4]]
    assert [site.servers[key].connections for key in ("shop", "club")] == [1, 1]
    assert caplog.messages == ['host "club": SMTPRecipientsRefused, not raised']


@pytest.mark.parametrize("of_host", [True, False])
def test_message_that_cannot_be_redirected_does_not_keep_the_others_back(of_host, site):
    bad, good = batch = [message("shop@example.com"), message("shop@example.com")]
    bad.merge_data = {"a@example.net": {}}
    site.hosts["shop"] += "&_redirect_to=qa@example.com" * of_host
    router = RoutingBackend(redirect_to=None if of_host else "qa@example.com")
    with pytest.raises(InvalidEmailHost, match="merge_data") as caught:
        router.send_messages(batch)
    error: Any = caught.value
    assert (error.sent, error.unsent) == ([good], [bad])
    assert site.recipients() == {"shop": ["qa@example.com"]}


def test_message_that_cannot_be_redirected_has_none_sent_twice(site):
    """The backend does not say what it took."""
    site.hosts["shop"] = f"backend://conftest.Recorder{SENDER}&_redirect_to=qa@example.com"
    batch = [message("shop@example.com") for _ in range(4)]
    batch[1].merge_data = {"a@example.net": {}}
    with (
        mock.patch.object(Recorder, "send_messages", return_value=0) as sent,
        pytest.raises(InvalidEmailHost),
    ):
        RoutingBackend().send_messages(batch)
    assert sent.call_count == 3


def test_host_that_is_lost_says_nothing_of_messages_of_others(site, monkeypatch):
    """Another host has not taken its message, and does not say why."""
    script = any_of(at("MAIL", None, CLOSE), at("banner", None, "421 no"))
    site.servers["shop"].script = script
    site.hosts["own"] = "backend://conftest.Recorder?_default_from_email=own@own.example"
    monkeypatch.setattr(Recorder, "answer", 0)
    senders = ["own@own.example", "shop@example.com", "shop@example.com"]
    with told() as heard:
        RoutingBackend(fail_silently=True).send_messages([*map(message, senders)])
    assert len(heard) == 2


def tenant(server: Any) -> Any:
    return connection_from_dsn(f"smtp://127.0.0.1:{server.port}?timeout=20")


def send(*found: Any, of: Any = list) -> int:
    """Send a message for each of what the router returns."""
    batch = [message("project@example.com", f"{i}@example.net") for i in range(len(found))]
    with override_settings(EMAIL_HOSTS_ROUTER=mock.Mock(side_effect=found)):
        return RoutingBackend(fail_silently=True).send_messages(of(batch))


class TestConnectionOfTheRouter:
    """A router may return a connection: the host of a tenant, say."""

    @real_hosts()
    def test_is_used_for_all_its_messages_and_for_no_other(self, serve, mailoutbox):
        server = serve()
        first, second = tenant(server), tenant(server)
        assert send(first, second, first, locmem.EmailBackend()) == 4
        assert (server.connections, len(server.accepted), len(mailoutbox)) == (2, 3, 1)

    @real_hosts()
    @pytest.mark.parametrize("is_open", [True, False])
    def test_is_left_as_it_was(self, is_open, serve):
        connection = tenant(serve(at("MAIL", None, "550 no")))
        if is_open:
            connection.open()
        for sent in (1, 0):
            assert send(connection) == sent
            assert bool(connection.connection) is is_open
        connection.close()

    @real_hosts()
    def test_is_not_kept_open_for_the_next_batch(self, serve):
        """There may be thousands of tenants, and a generator of messages without end."""
        server = serve()
        assert send(tenant(server), tenant(server), of=iter) == 2
        steps = [command[:4].upper() for command in server.commands]
        assert steps.index("QUIT") < steps.index("EHLO", 1)

    @pytest.mark.parametrize(
        ("make", "sender"),
        [
            (lambda: backends.EmailHostsBackend("h", default_from_email="a@b"), "a@b"),
            (lambda: smtp.EmailBackend(host="h", alias="x"), "project@example.com"),
            (lambda: backends.FailoverBackend(["shop"]), "shop@example.com"),
        ],
    )
    def test_delivers_to_the_outbox_of_a_test(self, make, sender, mailoutbox):
        send(make())
        assert [sent.from_email for sent in mailoutbox] == [sender]


@needs_mailers
@pytest.mark.parametrize(("using", "host"), [(None, "shop"), ("safe", "club")])
def test_admin_email_handler_names_a_mailer(using, host, serve):  # pragma: mailers-only
    site = Site(serve)
    hosts = {**site.hosts, "safe": "failover:club,shop"}
    settings = {"MAILERS": {**mailers(hosts), "default": {"BACKEND": ROUTING}}}
    with override_settings(**settings, EMAIL_HOSTS=hosts, SERVER_EMAIL="server@example.com"):
        AdminEmailHandler(using=using).emit(logging.makeLogRecord({"msg": "it failed"}))
    assert site.recipients() == {host: ["admin@example.com"]}


def test_message_that_is_there_twice_goes_twice(serve, settings):
    """Through a failover, and before one that it cannot take."""
    servers = serve(at("MAIL", "451 later")), serve()
    down, up = (f"smtp://127.0.0.1:{server.port}" for server in servers)
    hosts = {"down": down, "up": f"{up}?_redirect_to=qa@example.com"}
    settings.EMAIL_HOSTS = {**hosts, "default": "failover:down,up"}
    one, other = message("a@example.com"), message("b@example.com")
    vars(other)["merge_data"] = {"a": 1}
    RoutingBackend(fail_silently=True).send_messages([one, other, one])
    assert len(servers[1].accepted) == 2
