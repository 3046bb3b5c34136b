"""What a host does to a message. The caller's own stays as it was."""

import copy
from email import message_from_bytes
from io import StringIO
from typing import Any

import pytest
from conftest import needs_mailers, wrapped
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings

from email_hosts.backends import EmailHostsBackend, RoutingBackend, get_connection

SENDERS = "_default_from_email=Shop <shop@example.com>&_server_email=alert@example.com"


DEFAULT = {"default_from_email": "Shop <shop@example.com>"}
SERVER = {"server_email": "alert@example.com"}


@pytest.fixture
def host():
    """A host with a sender for messages and one for alerts."""
    return wrapped(**DEFAULT, **SERVER)


class TestSender:
    """It is the host's unless the message names its own."""

    @pytest.mark.parametrize(
        ("senders", "from_email", "expected"),
        [
            (DEFAULT | SERVER, None, "Shop <shop@example.com>"),
            (DEFAULT | SERVER, "", "Shop <shop@example.com>"),
            (DEFAULT | SERVER, "project@example.com", "Shop <shop@example.com>"),
            (DEFAULT | SERVER, "root@example.com", "alert@example.com"),
            (DEFAULT | SERVER, "me@example.com", "me@example.com"),
            (DEFAULT | SERVER, "P <project@example.com>", "P <project@example.com>"),
            (DEFAULT, "root@example.com", "root@example.com"),
            (SERVER, "root@example.com", "alert@example.com"),
            (SERVER, "project@example.com", "project@example.com"),
            ({}, "root@example.com", "root@example.com"),
        ],
    )
    def test_is_chosen_by_what_the_message_says(
        self, senders, from_email, expected, new_message
    ):
        message = new_message()
        message.from_email = from_email
        host = wrapped(**senders)
        assert host.send_messages([message]) == 1
        assert host.got[0].from_email == expected
        assert message.from_email == from_email

    @pytest.mark.parametrize(
        ("senders", "expected"),
        [(SERVER, "alert@example.com"), (DEFAULT | SERVER, "Shop <shop@example.com>")],
    )
    @override_settings(SERVER_EMAIL="project@example.com")
    def test_is_first_of_all_the_default_where_both_settings_are_one_address(
        self, senders, expected, message
    ):
        host = wrapped(**senders)
        host.send_messages([message])
        assert host.got[0].from_email == expected

    def test_in_the_headers_stays_as_written(self, host, new_message):
        host.send_messages([new_message(headers={"From": "Me <me@example.com>"})])
        assert host.got[0].message()["From"] == "Me <me@example.com>"

    def test_of_a_template_of_a_provider_stays(self, host, message):
        """Anymail: ``None`` is then the sender that the template has."""
        message.template_id, message.from_email = "welcome", None
        host.send_messages([message])
        assert host.got[0].from_email is None

    @pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
    @pytest.mark.parametrize("mail_server_people", [mail.mail_admins, mail.mail_managers])
    @override_settings(EMAIL_HOSTS={"shop": f"locmem://?{SENDERS}"})
    def test_to_admins_and_managers_is_for_alerts(self, mail_server_people):
        mail_server_people("Hello", "World", connection=get_connection("shop"))
        assert [sent.from_email for sent in mail.outbox] == ["alert@example.com"]

    @override_settings(EMAIL_HOSTS={"shop": f"locmem://?{SENDERS}"})
    def test_is_kept_by_the_outbox(self, message):
        get_connection("shop").send_messages([message])
        assert [sent.from_email for sent in mail.outbox] == ["Shop <shop@example.com>"]

    @override_settings(EMAIL_HOSTS={"shop": f"console://?{SENDERS}"})
    def test_is_printed_by_the_console(self, message):
        stream = StringIO()
        assert get_connection("shop", stream=stream).send_messages([message]) == 1
        assert "From: Shop <shop@example.com>" in stream.getvalue()
        assert get_connection("shop", stream=stream).send_messages([]) == 0


class TestReplyTo:
    """A message gets it that says nothing of it."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, "Shop <help@example.com>"),
            ({"reply_to": ["me@example.com"]}, "me@example.com"),
            ({"headers": {"Reply-To": "me@example.com"}}, "me@example.com"),
        ],
    )
    def test_is_the_hosts_unless_the_message_has_one(self, options, expected, new_message):
        host = wrapped(reply_to="Shop <help@example.com>")
        host.send_messages([new_message(**options)])
        assert host.got[0].message()["Reply-To"] == expected

    def test_in_headers_is_one_in_lower_case_too(self, new_message):
        message = new_message(headers={"reply-to": "me@example.com"})
        assert wrapped(reply_to="help@example.com").apply_host(message) is message


HEADERS = {"X-Shop": "Bücher", "List-Id": "<shop.example.com>"}


class TestHeaders:
    """A message gets those that it does not have."""

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({}, HEADERS),
            ({"X-Other": "1"}, {"X-Other": "1", **HEADERS}),
            ({"x-shop": "1"}, {"x-shop": "1", "List-Id": "<shop.example.com>"}),
            ({"x-shop": "", "LIST-ID": "1"}, {"x-shop": "", "LIST-ID": "1"}),
        ],
    )
    def test_are_added_where_they_are_absent(self, headers, expected, new_message):
        message = new_message(headers=headers)
        host = wrapped(headers=HEADERS)
        host.send_messages([message])
        assert host.got[0].extra_headers == expected
        assert message.extra_headers == headers

    def test_are_encoded_as_django_does_it(self, new_message):
        sent = wrapped(headers=HEADERS).apply_host(new_message()).message().as_bytes()
        own = new_message(headers=HEADERS).message().as_bytes()
        (line,) = (line for line in sent.splitlines() if line.startswith(b"X-Shop: =?utf-8?"))
        assert line in own.splitlines()


BOUNCES: dict[str, Any] = {"envelope_from": "bounces@example.com"}


class TestEnvelopeFrom:
    """It is where bounces go, and the sender in the header stays."""

    DSNS = (
        "smtp://127.0.0.1:{}?{}",
        f"backend://{__name__}.Relay?host=127.0.0.1&port={{}}&{{}}",
    )

    @pytest.fixture(params=DSNS)
    def send(self, request, serve, settings):
        """Send through our SMTP backend, and through a subclass of Django's."""

        def send(query, message):
            server = serve()
            settings.EMAIL_HOSTS = {"shop": request.param.format(server.port, query)}
            with get_connection("shop") as connection:
                connection.send_messages([message])
            (accepted,) = server.accepted
            return accepted.sender, message_from_bytes(accepted.content)["From"]

        return send

    @pytest.mark.parametrize(
        ("query", "options", "expected"),
        [
            ("", {}, ("bounces@example.com", "project@example.com")),
            (
                "&_default_from_email=Shop <shop@example.com>",
                {},
                ("bounces@example.com", "Shop <shop@example.com>"),
            ),
            ("", {"from_email": "me@example.com"}, ("bounces@example.com", "me@example.com")),
            (
                "",
                {"headers": {"From": "me@example.com"}},
                ("project@example.com", "me@example.com"),
            ),
            (
                "",
                {"headers": {"from": "me@example.com"}},
                ("project@example.com", "project@example.com"),
            ),
        ],
    )
    def test_is_mail_from_of_smtp(self, query, options, expected, send, new_message):
        query = f"_envelope_from=Bounces <bounces@example.com>{query}"
        assert send(query, new_message(**options)) == expected

    def test_is_that_of_the_message_if_it_has_one(self, send, message):
        """By Anymail's name for it."""
        message.envelope_sender = "mine@example.com"
        expected = ("mine@example.com", "project@example.com")
        assert send("_envelope_from=bounces@example.com", message) == expected
        assert send("", message) == expected

    @pytest.mark.parametrize("unset", [None, "", type("UNSET", (), {})])
    def test_is_the_envelope_sender_of_other_backends(self, unset, message):
        host = wrapped(**BOUNCES)
        host.send_messages([message])
        message.envelope_sender = unset
        host.send_messages([message])
        assert [sent.envelope_sender for sent in host.got] == ["bounces@example.com"] * 2
        assert [sent.from_email for sent in host.got] == ["project@example.com"] * 2
        assert message.envelope_sender is unset

    @pytest.mark.parametrize(
        ("attribute", "value"),
        [
            ("envelope_sender", "mine@example.com"),
            ("extra_headers", {"FROM": "me@example.com"}),
        ],
    )
    def test_is_left_to_a_message_that_says_it(self, attribute, value, message):
        setattr(message, attribute, value)
        assert wrapped(**BOUNCES).apply_host(message) is message

    def test_goes_with_a_template_of_a_provider(self, message):
        message.template_id, message.from_email = "welcome", None
        sent: Any = wrapped(**BOUNCES).apply_host(message)
        assert (sent.envelope_sender, sent.from_email) == ("bounces@example.com", None)

    @pytest.mark.parametrize("from_email", [None, ""])
    def test_is_no_sender_of_smtp(self, from_email, message):
        """Django refuses a message without one."""
        message.from_email = from_email
        host = EmailHostsBackend("h", **BOUNCES)
        assert host.apply_host(message).from_email == from_email


class TestAllAtOnce:
    """What a host adds goes through hosts of hosts."""

    QUERY = (
        "_reply_to={0}@x.example&_envelope_from={0}@y.example&_header-X-{0}=1&_header-Y={0}"
    )

    @pytest.mark.parametrize("outer", ["failover:shop", "roundrobin:shop", "failover:all"])
    def test_outer_host_comes_first(self, outer, message, serve, settings):
        server = serve()
        settings.EMAIL_HOSTS = {
            "shop": f"smtp://127.0.0.1:{server.port}?{self.QUERY.format('inner')}"
            "&_default_from_email=shop@example.com",
            "all": "failover:shop",
            "outer": f"{outer}?{self.QUERY.format('outer')}",
        }
        assert get_connection("outer").send_messages([message]) == 1
        (accepted,) = server.accepted
        sent = message_from_bytes(accepted.content)
        assert accepted.sender == "outer@y.example"
        assert sent["From"] == "shop@example.com"
        assert sent["Reply-To"] == "outer@x.example"
        assert (sent["X-outer"], sent["X-inner"], sent["Y"]) == ("1", "1", "outer")

    @pytest.mark.parametrize("key", ["shop", "console", "all", "router"])
    def test_options_of_a_call_are_taken_by_each_host(self, key, message, serve, settings):
        server = serve()
        settings.EMAIL_HOSTS = {
            "shop": f"smtp://127.0.0.1:{server.port}",
            "default": f"smtp://127.0.0.1:{server.port}",
            "console": "console:",
            "all": "failover:shop",
            "router": "backend://email_hosts.backends.RoutingBackend",
        }
        stream = StringIO()
        more: dict[str, Any] = {"stream": stream} if key == "console" else {}
        connection = get_connection(key, headers={"X-Shop": "news"}, reply_to="a@b.c", **more)
        assert connection.send_messages([message]) == 1
        sent = server.accepted[0].content.decode() if server.accepted else stream.getvalue()
        assert "X-Shop: news" in sent
        assert "Reply-To: a@b.c" in sent


@needs_mailers
def test_mailer_written_by_hand_has_each_option(message, serve):  # pragma: mailers-only
    server = serve()
    options = {
        "host": "127.0.0.1",
        "port": server.port,
        "default_from_email": "shop@example.com",
        "reply_to": "help@example.com",
        "envelope_from": "bounces@example.com",
        "headers": {"X-Shop": "news"},
        "redirect_to": "qa@example.com",
        "allowed_recipients": ["example.org"],
    }
    smtp = {"BACKEND": "email_hosts.backends.EmailHostsBackend", "OPTIONS": options}
    with override_settings(MAILERS={"shop": smtp}):
        message.send(using="shop")
    (accepted,) = server.accepted
    assert (accepted.sender, accepted.recipients) == (
        "bounces@example.com",
        ("qa@example.com",),
    )
    sent = message_from_bytes(accepted.content)
    assert (sent["From"], sent["Reply-To"]) == ("shop@example.com", "help@example.com")
    assert (sent["X-Shop"], sent["X-Original-To"]) == ("news", "someone@example.net")


class TestCallersMessage:
    """It is as it was after a send, but for what the backend notes on it."""

    @pytest.mark.parametrize("failure", [None, OSError("no")])
    def test_has_what_the_backend_notes_and_nothing_else(self, failure, host, message):
        host.wrapped.failure = failure
        before = copy.copy(vars(message))
        try:
            host.send_messages([message])
        except OSError:
            assert failure
        assert {**before, "anymail_status": "queued"} == vars(message)

    def test_has_no_sender_that_a_backend_writes(self, host, message, monkeypatch):
        def rewrite(messages):
            messages[0].from_email = "backend@example.com"
            return 1

        monkeypatch.setattr(host.wrapped, "send_messages", rewrite)
        host.send_messages([message])
        assert message.from_email == "project@example.com"

    def test_has_its_own_sender_at_any_moment(self, host, message):
        """Another thread may send the same message through another host."""
        written = []

        class Watched(EmailMessage):
            def __setattr__(self, name, value):
                if self is message:
                    written.append(name)
                super().__setattr__(name, value)

        class Attributes(dict[str, object]):
            update = written.append  # type: ignore[assignment]

        message.__class__ = Watched
        message.__dict__ = Attributes(vars(message))
        written.clear()
        host.send_messages([message])
        assert written == ["anymail_status"]

    def test_has_nothing_that_a_host_or_a_receiver_sets_for_sending(self, host, message):
        """A receiver of Anymail's ``pre_send`` may change what it gets."""
        host = wrapped(**DEFAULT, headers=HEADERS, redirect_to="qa@example.com")
        names = ("to", "cc", "bcc", "reply_to", "extra_headers", "envelope_sender")

        def rewrite(messages):
            for name in names:
                setattr(messages[0], name, "changed")
            return 1

        before = {**vars(message)}
        host.wrapped.send_messages = rewrite
        host.send_messages([message])
        assert vars(message) == before

    def test_has_what_the_backend_adds_to_its_headers(self, host, message):
        """django-ses puts the provider's id there."""
        host = wrapped(**DEFAULT, headers=HEADERS, redirect_to="qa@example.com")

        def note(messages):
            messages[0].extra_headers["message_id"] = "1"
            return 1

        message.extra_headers["X-Own"] = "1"
        host.wrapped.send_messages = note
        host.send_messages([message])
        assert message.extra_headers == {"X-Own": "1", "message_id": "1"}

    @pytest.mark.parametrize("key", ["all", "router"])
    def test_has_what_the_backend_notes_through_other_hosts(self, key, message, settings):
        dsn = "backend://conftest.Recorder?_header-X-Shop=1"
        settings.EMAIL_HOSTS = {"default": dsn, "all": "failover:default?_header-X-All=1"}
        router = RoutingBackend(headers={"X-Router": "1"})
        connection = router if key == "router" else get_connection(key)
        connection.send_messages([message])
        assert message.anymail_status == "queued"
        assert message.extra_headers == {}

    def test_may_have_a_property_for_its_sender(self, host):
        class Stored(EmailMessage):
            @property
            def from_email(self):
                return str(self.stored)

            @from_email.setter
            def from_email(self, value):
                self.stored = value

        message = Stored("Hello", "World", to=["someone@example.net"])
        host.send_messages([message])
        assert host.got[0].from_email == "Shop <shop@example.com>"
        assert message.from_email == "project@example.com"

    def test_is_passed_on_itself_where_it_needs_no_other_sender(self, host, new_message):
        message = new_message(from_email="me@example.com")
        host.send_messages([message])
        assert host.got[0] is message

    def test_goes_through_one_host_after_the_other(self, message):
        hosts = [wrapped(default_from_email=f"{name}@example.com") for name in ("a", "b")]
        for host in hosts:
            host.send_messages([message])
        assert [host.got[0].from_email for host in hosts] == ["a@example.com", "b@example.com"]


class Relay(EmailBackend):
    """A project's own."""
