"""What a host does to a message. The caller's own stays as it was."""

import copy
from email import message_from_bytes
from io import StringIO
from typing import Any

import pytest
from conftest import wrapped
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings

from email_hosts.backends import EmailHostsBackend, RoutingBackend, get_connection

SHOP, ALERT = "Shop <shop@example.com>", "alert@example.com"
DEFAULT = {"default_from_email": SHOP}
SERVER = {"server_email": ALERT}
BOTH = DEFAULT | SERVER
REPLY_TO = {"reply_to": "Shop <help@example.com>"}
HEADERS = {"headers": {"X-Shop": "Bücher", "X-A": "2"}}
BACK = "bounces@example.com"
BOUNCES = {"envelope_from": BACK}
NAMED = "P <project@example.com>"
OWN_HEADER = {"extra_headers": {"x-shop": ""}}
NO_SENDER = {"from_email": None, "template_id": "welcome"}


class Relay(EmailBackend):
    """A project's own."""


class Unset:
    """Anymail's "not set" is a class."""


# The options of a host, a message, and what of it is sent in which way.
RULES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # The sender is the host's unless the message names its own.
    (BOTH, {"from_email": None}, {"from_email": SHOP}),
    (BOTH, {"from_email": ""}, {"from_email": SHOP}),
    (BOTH, {"from_email": "project@example.com"}, {"from_email": SHOP}),
    (BOTH, {"from_email": "root@example.com"}, {"from_email": ALERT}),
    (BOTH, {"from_email": NAMED}, {"from_email": NAMED}),
    (DEFAULT, {"from_email": "root@example.com"}, {"from_email": "root@example.com"}),
    (SERVER, {"from_email": "root@example.com"}, {"from_email": ALERT}),
    (SERVER, {}, {"from_email": "project@example.com"}),
    # Anymail: None is then the sender that the template has.
    (BOTH, NO_SENDER, {"from_email": None}),
    (BOUNCES, NO_SENDER, {"from_email": None, "envelope_sender": BACK}),
    # A message gets a Reply-To that says nothing of it.
    (REPLY_TO, {}, {"reply_to": ["Shop <help@example.com>"]}),
    (REPLY_TO, {"reply_to": ["me@example.com"]}, {"reply_to": ["me@example.com"]}),
    (REPLY_TO, {"extra_headers": {"reply-to": "me@example.com"}}, {"reply_to": []}),
    # It gets headers that it does not have.
    (HEADERS, {}, {"extra_headers": {"X-Shop": "Bücher", "X-A": "2"}}),
    (
        HEADERS,
        {"extra_headers": {"x-shop": ""}},
        {"extra_headers": {"x-shop": "", "X-A": "2"}},
    ),
    # Bounces go where the host says unless the message says something.
    (BOUNCES, {}, {"envelope_sender": BACK, "from_email": "project@example.com"}),
    (BOUNCES, {"envelope_sender": None}, {"envelope_sender": BACK}),
    (BOUNCES, {"envelope_sender": ""}, {"envelope_sender": BACK}),
    (BOUNCES, {"envelope_sender": Unset}, {"envelope_sender": BACK}),
    (BOUNCES, {"envelope_sender": "me@example.com"}, {"envelope_sender": "me@example.com"}),
    (BOUNCES, {"extra_headers": {"FROM": "me@example.com"}}, {"envelope_sender": None}),
]


@pytest.mark.parametrize(("options", "given", "expected"), RULES)
def test_host_changes_what_the_message_does_not_say(options, given, expected, message):
    vars(message).update(given)
    before = copy.deepcopy(vars(message))
    host = wrapped(**options)
    assert host.send_messages([message]) == 1
    (sent,) = host.got
    assert {name: getattr(sent, name, None) for name in expected} == expected
    assert {**vars(message), "anymail_status": None} == {**before, "anymail_status": None}


@pytest.mark.parametrize(("options", "expected"), [(SERVER, ALERT), (BOTH, SHOP)])
@override_settings(SERVER_EMAIL="project@example.com")
def test_project_with_one_address_for_both_gets_the_default_first(options, expected, message):
    host = wrapped(**options)
    host.send_messages([message])
    assert host.got[0].from_email == expected


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
@pytest.mark.parametrize("mail_server_people", [mail.mail_admins, mail.mail_managers])
def test_mail_to_admins_and_managers_is_from_the_sender_for_alerts(
    mail_server_people, settings, mailoutbox
):
    query = f"_default_from_email={SHOP}&_server_email={ALERT}"
    settings.EMAIL_HOSTS = {"shop": f"locmem:?{query}"}
    mail_server_people("Hello", "World", connection=get_connection("shop"))
    assert [sent.from_email for sent in mailoutbox] == [ALERT]


@pytest.mark.parametrize(
    "dsn",
    ["smtp://127.0.0.1:{}?", f"backend://{__name__}.Relay?host=127.0.0.1&port={{}}&"],
    ids=["ours", "django's"],
)
@pytest.mark.parametrize(
    ("query", "given", "expected"),
    [
        ("", {}, ("bounces@example.com", "project@example.com")),
        (f"&_default_from_email={SHOP}", {}, ("bounces@example.com", SHOP)),
        ("", {"from_email": "me@example.com"}, ("bounces@example.com", "me@example.com")),
        (
            f"&_default_from_email={SHOP}",
            {"extra_headers": {"From": "me@example.com"}},
            ("shop@example.com", "me@example.com"),
        ),
        (
            "",
            {"extra_headers": {"from": "me@example.com"}},
            ("project@example.com", "project@example.com"),
        ),
        # By Anymail's name for it
        (
            "",
            {"envelope_sender": "mine@example.com"},
            ("mine@example.com", "project@example.com"),
        ),
    ],
)
def test_envelope_is_mail_from_and_the_header_stays(
    dsn, query, given, expected, message, serve, settings
):
    server = serve()
    query = f"_envelope_from=Bounces <bounces@example.com>{query}"
    settings.EMAIL_HOSTS = {"shop": dsn.format(server.port) + query}
    vars(message).update(given)
    with get_connection("shop") as connection:
        connection.send_messages([message])
    (accepted,) = server.accepted
    assert (accepted.sender, message_from_bytes(accepted.content)["From"]) == expected


@pytest.mark.parametrize("from_email", [None, ""])
def test_envelope_is_no_sender_of_smtp(from_email, message):
    """Django refuses a message without one."""
    message.from_email = from_email
    host = EmailHostsBackend("h", **BOUNCES)  # type: ignore[arg-type]
    assert host.apply_host(message).from_email == from_email


class TestSeveralHosts:
    """What a host adds goes through hosts of hosts."""

    QUERY = (
        "_reply_to={0}@x.example&_envelope_from={0}@y.example&_header-X-{0}=1&_header-Y={0}"
    )

    @pytest.mark.parametrize("outer", ["failover:shop", "failover:all"])
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
        server, stream = serve(), StringIO()
        settings.EMAIL_HOSTS = {
            "shop": f"smtp://127.0.0.1:{server.port}",
            "default": f"smtp://127.0.0.1:{server.port}",
            "console": "console:",
            "all": "failover:shop",
            "router": "backend://email_hosts.backends.RoutingBackend",
        }
        more: dict[str, Any] = {"stream": stream} if key == "console" else {}
        connection = get_connection(key, headers={"X-Shop": "news"}, reply_to="a@b.c", **more)
        assert connection.send_messages([message]) == 1
        sent = server.accepted[0].content.decode() if server.accepted else stream.getvalue()
        assert "X-Shop: news" in sent
        assert "Reply-To: a@b.c" in sent


class TestCallersMessage:
    """It is as it was after a send, but for what the backend notes on it."""

    @pytest.fixture
    def host(self):
        return wrapped(**BOTH, **HEADERS, redirect_to="qa@example.com")

    @pytest.mark.parametrize("failure", [None, OSError("no")])
    def test_has_what_the_backend_notes_and_nothing_else(self, failure, message):
        host = wrapped(**BOTH, **HEADERS, fail_silently=True)
        host.wrapped.failure = failure
        before = copy.copy(vars(message))
        host.send_messages([message])
        assert {**before, "anymail_status": "queued"} == vars(message)

    def test_has_nothing_that_a_host_or_a_receiver_sets_for_sending(self, host, message):
        """A receiver of Anymail's ``pre_send`` may change what it gets."""
        names = "from_email to cc bcc reply_to extra_headers envelope_sender".split()

        def rewrite(messages):
            for name in names:
                setattr(messages[0], name, "changed")
            return 1

        before = {**vars(message)}
        host.wrapped.send_messages = rewrite
        host.send_messages([message])
        assert vars(message) == before

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

    def test_has_what_the_backend_adds_to_its_headers(self, host, message):
        """django-ses puts the provider's id there."""

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

    def test_is_passed_on_itself_where_nothing_changes(self, new_message):
        host, message = wrapped(**BOTH), new_message(from_email="me@example.com")
        host.send_messages([message])
        assert host.got[0] is message
