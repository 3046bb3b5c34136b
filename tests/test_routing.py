"""A default backend that picks a host for each message."""

import logging
import smtplib
from contextlib import nullcontext
from typing import Any

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends import locmem, smtp
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings
from django.utils.log import AdminEmailHandler
from scripted import at, to

from email_hosts import mailers
from email_hosts.backends import (
    EmailHostsBackend,
    FailoverBackend,
    HostBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.testing import real_hosts

RECORD = logging.LogRecord("x", logging.ERROR, "x.py", 1, "it failed", (), None)
ROUTING = "email_hosts.backends.RoutingBackend"
CONSOLE = "django.core.mail.backends.console.EmailBackend"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'fail_silently' argument is deprecated"),
]


class Site:
    """Three hosts on two servers of a project whose default backend routes."""

    def __init__(self, serve: Any) -> None:
        self.servers = {key: serve() for key in ("shop", "club", "default")}
        self.hosts = {
            key: f"smtp://127.0.0.1:{server.port}?timeout=1"
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
    site = Site(serve)
    with override_settings(EMAIL_BACKEND=ROUTING, EMAIL_HOSTS=site.hosts):
        yield site


@pytest.fixture
def no_default(site):
    """Have no host for other senders."""
    hosts = {key: dsn for key, dsn in site.hosts.items() if key != "default"}
    with override_settings(EMAIL_HOSTS=hosts):
        yield


def message(from_email: str, to: str = "a@example.net") -> EmailMessage:
    return EmailMessage("Hello", "World", from_email, [to])


@pytest.mark.parametrize(
    ("from_email", "host"),
    [
        ("shop@example.com", "shop"),
        ("Somebody Else <SHOP@Example.com>", "shop"),
        ("orders@example.com", "shop"),
        ("club@bücher.example", "club"),
        ("info@xn--bcher-kva.example", "club"),
        ("me@elsewhere.example", "default"),
        ("nonsense", "default"),
    ],
)
def test_sender_picks_the_host(from_email, host, site):
    message(from_email).send()
    assert list(site.recipients()) == [host]


def test_same_address_comes_before_the_same_domain(site):
    hosts = {
        **site.hosts,
        "orders": site.hosts["default"] + "&_default_from_email=orders@example.com",
        "broken": "smpt://h",
    }
    with override_settings(EMAIL_HOSTS=hosts):
        message("orders@example.com").send()
    assert list(site.recipients()) == ["default"]


def test_key_may_be_router(site, closed_port):
    hosts = {**site.hosts, "down": f"smtp://127.0.0.1:{closed_port}"}
    hosts["router"] = "failover:down,shop"
    with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=lambda message: "router"):
        message("me@example.com").send()
    assert site.recipients() == {"shop": ["a@example.net"]}


def test_code_that_never_heard_of_hosts_is_routed(site):
    mail.send_mail("Hello", "World", "shop@example.com", ["a@example.net"])
    with override_settings(SERVER_EMAIL="root@elsewhere.example"):
        mail.mail_admins("Alert", "!")
    assert site.recipients() == {"shop": ["a@example.net"], "default": ["admin@example.com"]}


def club(message: EmailMessage) -> str | None:
    """A project's own router."""
    return "club" if message.subject == "Hello" else None


@pytest.mark.parametrize("router", [club, f"{__name__}.club"])
def test_router_of_the_project_picks_the_host(router, site):
    with override_settings(EMAIL_HOSTS_ROUTER=router):
        message("shop@example.com").send()
        EmailMessage("Other", "", "shop@example.com", ["b@example.net"]).send()
    assert site.recipients() == {"club": ["a@example.net"], "default": ["b@example.net"]}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("again", "it asks the router, so no other host can use it"),
        ("again2", "it asks the router, so no other host can use it"),
        ("nobody", "there is no such host; known hosts: "),
        ("smtp://Kx7vQz9:Wj4bYt2@h", "the key of a host must not be a DSN"),
    ],
)
def test_router_must_name_another_host(key, reason, site, caplog):
    again = {
        "again": f"backend://{ROUTING}",
        "again2": f"backend://{ROUTING}?_server_email=a@b",
    }
    with override_settings(
        EMAIL_HOSTS={**site.hosts, **again}, EMAIL_HOSTS_ROUTER=lambda _: key
    ):
        with pytest.raises(InvalidEmailHost, match=reason) as caught:
            RoutingBackend().send_messages([message("shop@example.com")])
        silent = RoutingBackend(fail_silently=True)
        assert silent.send_messages([message("shop@example.com")]) == 0
    assert reason in caplog.text
    assert "Kx7vQz9" not in caplog.text + str(caught.value)


def test_router_that_sends_mail_through_itself_is_refused(site):
    def router(asked: EmailMessage) -> Any:
        return message("shop@example.com").send()

    with (
        override_settings(EMAIL_HOSTS_ROUTER=router),
        pytest.raises(InvalidEmailHost, match="the router sends mail through itself"),
    ):
        message("shop@example.com").send()
    assert message("shop@example.com").send() == 1


def test_router_may_log_what_is_mailed_through_the_router(site):
    handler = AdminEmailHandler()

    def router(message: EmailMessage) -> str:
        handler.emit(RECORD)
        return "shop"

    with override_settings(EMAIL_HOSTS_ROUTER=router):
        assert message("me@elsewhere.example").send() == 1
    assert site.recipients() == {"shop": ["a@example.net"]}


def test_batch_opens_each_host_once(site):
    senders = ["shop@example.com", "club@bücher.example"] * 3
    batch = (message(sender, f"{i}@example.net") for i, sender in enumerate(senders))
    assert RoutingBackend().send_messages(batch) == 6
    assert [site.servers[key].connections for key in ("shop", "club")] == [1, 1]


def test_failure_of_one_host_does_not_keep_the_others_mail_back(site, caplog):
    for key in ("shop", "club"):
        site.servers[key].script = at("MAIL", "550 no")
    senders = ["shop@example.com", "club@bücher.example", "x@y.example"]
    batch = list(map(message, senders))
    with pytest.raises(smtplib.SMTPSenderRefused) as caught:
        RoutingBackend().send_messages(batch)
    error: Any = caught.value
    assert error.sent == [batch[2]]
    assert error.unsent == batch[:2]
    assert list(site.recipients()) == ["default"]
    assert caplog.messages == ['host "club": SMTPSenderRefused 550, not raised']


def test_each_message_of_a_list_is_tried(site):
    """However many there are of one host, and whichever is refused."""
    site.servers["shop"].script = to("2@", "550 no")
    batch = [message("shop@example.com", f"{i}@example.net") for i in range(250)]
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        RoutingBackend().send_messages(batch)
    error: Any = caught.value
    assert len(site.servers["shop"].accepted) == len(error.sent) == 225
    assert error.unsent == [each for each in batch if each.to[0].endswith("2@example.net")]
    assert site.servers["shop"].connections == 1


def test_generator_ends_at_its_first_error(site):
    site.servers["shop"].script = to("2@", "550 no")
    batch = (message("shop@example.com", f"{i}@example.net") for i in range(9))
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        RoutingBackend().send_messages(batch)
    assert len(site.servers["shop"].accepted) == 2
    assert len(list(batch)) == 6
    assert not hasattr(caught.value, "sent")


def test_rest_of_a_host_that_cannot_be_reached_is_unsent(site, closed_port):
    hosts = {**site.hosts, "down": f"smtp://127.0.0.1:{closed_port}"}
    batch = [message("x@y.example", f"{i}@example.net") for i in range(4)]
    router = {"0": "down", "1": "club", "2": "down", "3": "shop"}
    with (
        override_settings(
            EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=lambda each: router[each.to[0][0]]
        ),
        pytest.raises(ConnectionRefusedError) as caught,
    ):
        RoutingBackend().send_messages(batch)
    error: Any = caught.value
    assert (error.sent, error.unsent) == (batch[1::2], batch[::2])


def test_failure_may_be_ignored(site, no_default, caplog):
    site.servers["shop"].script = at("MAIL", "550 no")
    batch = [message("shop@example.com") for _ in range(3)]
    backend = RoutingBackend(fail_silently=True)
    assert backend.send_messages([*batch, message("x@y.example")]) == 2
    assert caplog.messages == [
        'host "shop": SMTPSenderRefused 550, ignored by fail_silently',
        'host "default": EmailHostDoesNotExist: EMAIL_HOSTS["default"]: there is no such '
        "host; known hosts: shop, club, ignored by fail_silently",
    ]


def test_message_that_cannot_be_redirected_does_not_keep_the_others_back(site):
    redirected: Any = message("shop@example.com", "a@example.net")
    redirected.merge_data = {"a@example.net": {}}
    batch = [redirected, message("shop@example.com", "b@example.net")]
    with pytest.raises(InvalidEmailHost, match="merge_data") as caught:
        RoutingBackend(redirect_to="qa@example.com").send_messages(batch)
    error: Any = caught.value
    assert (error.sent, error.unsent) == (batch[1:], batch[:1])
    assert site.recipients() == {"shop": ["qa@example.com"]}


@pytest.mark.parametrize("fail_silently", [False, True])
def test_router_that_returns_something_else_ends_the_send(fail_silently, site):
    backend = RoutingBackend(fail_silently=fail_silently)
    problem = r"EMAIL_HOSTS_ROUTER \(.*\) must return the key of a host, .* not int$"
    with (
        override_settings(EMAIL_HOSTS_ROUTER=lambda message: 7),
        pytest.raises(TypeError, match=problem),
    ):
        backend.send_messages([message("shop@example.com")])


class TakesNone(BaseEmailBackend):
    """Says so, and raises nothing."""

    def send_messages(self, email_messages: Any) -> int:
        return 0


def test_host_that_takes_none_leaves_it_unknown_what_was_sent(site):
    hosts = {**site.hosts, "default": f"backend://{__name__}.TakesNone"}
    site.servers["shop"].script = at("MAIL", "550 no")
    batch = [message("x@y.example"), message("shop@example.com"), message("x@y.example")]
    with override_settings(EMAIL_HOSTS=hosts):
        assert RoutingBackend(fail_silently=True).send_messages(batch[::2]) == 0
        with pytest.raises(smtplib.SMTPSenderRefused) as caught:
            RoutingBackend().send_messages(batch)
    assert not hasattr(caught.value, "sent")


@pytest.mark.parametrize("fail_silently", [False, True])
def test_host_that_is_not_valid_does_not_keep_the_others_mail_back(
    fail_silently, site, caplog
):
    hosts = {**site.hosts, "default": "smpt://h"}
    batch = [message("x@y.example"), message("shop@example.com")]
    backend = RoutingBackend(fail_silently=fail_silently)
    caught = nullcontext() if fail_silently else pytest.raises(InvalidEmailHost)
    with override_settings(EMAIL_HOSTS=hosts), caught:
        assert backend.send_messages(batch) == 1
    assert list(site.recipients()) == ["shop"]
    assert [text.partition(": EMAIL")[0] for text in caplog.messages] == fail_silently * [
        'host "default": InvalidEmailHost'
    ]


def test_no_host_is_an_error_after_the_others_mail(site, no_default):
    with pytest.raises(EmailHostDoesNotExist):
        RoutingBackend().send_messages([message("x@y.example"), message("shop@example.com")])
    assert list(site.recipients()) == ["shop"]


@pytest.mark.parametrize("fail_silently", [False, True])
def test_error_of_the_router_that_is_not_of_mail_ends_the_send(fail_silently, site):
    def router(message: EmailMessage) -> str:
        return {"shop@example.com": "shop"}[message.from_email]

    backend = RoutingBackend(fail_silently=fail_silently)
    batch = [message("x@y.example"), message("shop@example.com")]
    with override_settings(EMAIL_HOSTS_ROUTER=router), pytest.raises(KeyError) as caught:
        backend.send_messages(batch)
    error: Any = caught.value
    assert (error.sent, error.unsent) == ([], batch)
    assert site.recipients() == {}


class TestConnectionOfTheRouter:
    """A router may return a connection: the host of a tenant, say."""

    @pytest.fixture(autouse=True)
    def outside_of_tests(self):
        with real_hosts():
            yield

    @pytest.fixture
    def route(self, settings):
        """Let the router return one of these for each message, by its recipient."""

        def route(by_recipient: Any) -> None:
            def router(message: EmailMessage) -> Any:
                found = by_recipient[message.to[0]]
                return found() if callable(found) else found

            settings.EMAIL_HOSTS_ROUTER = router

        return route

    def tenant(self, server: Any, query: str = "") -> Any:
        return connection_from_dsn(f"smtp://127.0.0.1:{server.port}?timeout=20{query}")

    def batch(self, *recipients: str) -> list[EmailMessage]:
        return [message("x@y.example", recipient) for recipient in recipients]

    def test_is_a_host_beside_those_of_the_settings(self, site, serve, route):
        server = serve()
        tenant = self.tenant(server, "&_default_from_email=tenant@example.com")
        route({"a@example.net": tenant, "b@example.net": "club", "c@example.net": None})
        batch = self.batch("a@example.net", "b@example.net", "c@example.net")
        batch[0].from_email = "project@example.com"
        assert RoutingBackend().send_messages(batch) == 3
        assert site.recipients() == {"club": ["b@example.net"], "default": ["c@example.net"]}
        assert [one.sender for one in server.accepted] == ["tenant@example.com"]

    def test_is_used_for_all_its_messages_of_a_batch(self, serve, route):
        server = serve()
        route(dict.fromkeys(("a@example.net", "b@example.net"), self.tenant(server)))
        assert (
            RoutingBackend().send_messages(self.batch("a@example.net", "b@example.net")) == 2
        )
        assert (server.connections, len(server.accepted)) == (1, 2)

    def test_is_not_another_one_that_is_equal(self, serve, route):
        server = serve()
        route(dict.fromkeys(("a@example.net", "b@example.net"), lambda: self.tenant(server)))
        assert (
            RoutingBackend().send_messages(self.batch("a@example.net", "b@example.net")) == 2
        )
        assert (server.connections, len(server.accepted)) == (2, 2)

    @pytest.mark.parametrize("is_open", [True, False])
    @pytest.mark.parametrize(("reply", "sent"), [(None, 1), ("550 no", 0)])
    def test_is_left_as_it_was(self, is_open, reply, sent, serve, route):
        tenant = self.tenant(serve(at("MAIL", reply)))
        if is_open:
            tenant.open()
        route({"a@example.net": tenant})
        silent = RoutingBackend(fail_silently=True)
        assert silent.send_messages(self.batch("a@example.net")) == sent
        assert bool(tenant.connection) is is_open
        tenant.close()

    def test_has_the_name_of_its_server_in_the_log(self, serve, route, caplog):
        server = serve(to("b@", "550 no"))
        route({"a@example.net": self.tenant(server)})
        (one,) = self.batch("a@example.net")
        one.cc = ["b@example.net"]
        assert RoutingBackend().send_messages([one]) == 1
        assert caplog.messages == [f"127.0.0.1:{server.port}: refused recipients: 1 [550]"]

    def test_failure_does_not_keep_the_others_mail_back(self, serve, route, closed_port):
        servers = [serve(), serve(at("MAIL", "550 no")), serve()]
        names = ["a@example.net", "b@example.net", "c@example.net", "d@example.net"]
        down = connection_from_dsn(f"smtp://127.0.0.1:{closed_port}")
        route(dict(zip(names, [down, *map(self.tenant, servers)], strict=True)))
        with pytest.raises(ConnectionRefusedError):
            RoutingBackend().send_messages(self.batch(*names))
        assert [len(server.accepted) for server in servers] == [1, 0, 1]

    def test_is_not_kept_open_for_the_next_batch(self, serve, route):
        """There may be thousands of tenants, and a generator of messages without end."""
        server = serve()
        tenants: list[Any] = []

        def tenant() -> Any:
            assert not any(each.connection for each in tenants)
            tenants.append(self.tenant(server))
            return tenants[-1]

        route(dict.fromkeys(("a@example.net", "b@example.net"), tenant))
        batch = iter(self.batch("a@example.net", "b@example.net"))
        assert RoutingBackend().send_messages(batch) == 2

    @pytest.mark.parametrize("query", ["", "?_server_email=a@example.com"])
    def test_must_not_be_a_router(self, query, site, route):
        again = {"again": f"backend://{ROUTING}{query}"}
        with override_settings(EMAIL_HOSTS={**site.hosts, **again}):
            route({"a@example.net": lambda: get_connection("again")})
            problem = (
                r"^EMAIL_HOSTS_ROUTER \(.*route.*router\) returned a RoutingBackend, which"
            )
            with pytest.raises(InvalidEmailHost, match=problem):
                RoutingBackend().send_messages(self.batch("a@example.net"))

    def test_may_be_any_backend(self, route, mailoutbox):
        route({"a@example.net": locmem.EmailBackend()})
        assert RoutingBackend().send_messages(self.batch("a@example.net")) == 1
        assert len(mailoutbox) == 1

    @needs_mailers
    def test_is_used_with_using(self, serve, route, settings):  # pragma: mailers-only
        server = serve()
        settings.MAILERS = {"tenants": {"BACKEND": ROUTING}}
        route({"a@example.net": self.tenant(server)})
        (one,) = self.batch("a@example.net")
        assert one.send(using="tenants") == 1
        assert len(server.accepted) == 1


SENDER = "tenant@example.com"
ALIAS: Any = {"alias": ""} if DJANGO_HAS_MAILERS else {}


class TestTests:
    """While tests run, nothing leaves the machine, whatever the router returns."""

    @pytest.mark.parametrize(
        ("connection", "sender"),
        [
            (lambda: connection_from_dsn(f"smtp://h?_default_from_email={SENDER}"), SENDER),
            (lambda: EmailHostsBackend("h", default_from_email=SENDER), SENDER),
            (lambda: HostBackend(CONSOLE, default_from_email=SENDER), SENDER),
            (lambda: smtp.EmailBackend(host="h", **ALIAS), "project@example.com"),
            (lambda: FailoverBackend(["shop"]), "shop@example.com"),
            (lambda: HostBackend(locmem.EmailBackend(), default_from_email=SENDER), SENDER),
        ],
    )
    def test_connection_delivers_to_the_outbox(
        self, connection, sender, settings, mailoutbox, capsys
    ):
        settings.EMAIL_HOSTS_ROUTER = lambda message: connection()
        RoutingBackend().send_messages([message("project@example.com")])
        assert [sent.from_email for sent in mailoutbox] == [sender]
        assert capsys.readouterr().out == ""


@needs_mailers
def test_default_mailer_routes_to_the_host_of_its_own_key(serve):  # pragma: mailers-only
    site = Site(serve)
    default = {"default": {"BACKEND": ROUTING}}
    with override_settings(MAILERS=default, EMAIL_HOSTS=site.hosts):
        message("x@y.example").send()
        message("shop@example.com").send()
    assert list(site.recipients()) == ["shop", "default"]


@needs_mailers
def test_default_mailer_that_routes_is_no_host_of_that_key(no_default):  # pragma: mailers-only
    default = {"default": {"BACKEND": ROUTING}}
    with override_settings(MAILERS=default), pytest.raises(EmailHostDoesNotExist):
        message("x@y.example").send()


@pytest.mark.skipif(DJANGO_HAS_MAILERS, reason="Django 6.1 has another way")
@pytest.mark.parametrize("email_backend", [None, ROUTING])
def test_admin_email_handler_is_routed(email_backend, site):  # pragma: no-mailers-only
    with override_settings(SERVER_EMAIL="server@example.com"):
        AdminEmailHandler(email_backend=email_backend).emit(RECORD)
    assert site.recipients() == {"shop": ["admin@example.com"]}


@needs_mailers
@pytest.mark.parametrize(
    ("using", "host"), [(None, "shop"), ("club", "club"), ("safe", "club")]
)
def test_admin_email_handler_names_a_mailer(using, host, serve):  # pragma: mailers-only
    site = Site(serve)
    hosts = {**site.hosts, "safe": "failover:club,shop"}
    settings = {"MAILERS": {**mailers(hosts), "default": {"BACKEND": ROUTING}}}
    with override_settings(**settings, EMAIL_HOSTS=hosts, SERVER_EMAIL="server@example.com"):
        AdminEmailHandler(using=using).emit(RECORD)
    assert site.recipients() == {host: ["admin@example.com"]}
