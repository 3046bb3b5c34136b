"""What a host does to a message. The caller's own stays as it was."""

import copy
from email import message_from_bytes, policy
from functools import partial
from typing import Any

import pytest
from conftest import wrapped
from django.core.mail.backends.smtp import EmailBackend
from django.test import override_settings

from email_hosts.backends import FailoverBackend, RoutingBackend, get_connection

SHOP, ALERT, BACK = "Shop <shop@example.com>", "alert@example.com", "bounces@example.com"
PROJECT, ROOT, ME = "project@example.com", "root@example.com", "me@example.com"
DEFAULT, SERVER = {"default_from_email": SHOP}, {"server_email": ALERT}
BOTH: Any = DEFAULT | SERVER
REPLY_TO = {"reply_to": "Shop <help@example.com>"}
HEADERS = {"headers": {"X-Shop": "Bücher", "X-A": "2"}}
BOUNCES = {"envelope_from": BACK}
OWN_HEADER = {"x-shop": ""}
NO_SENDER = {"from_email": None, "template_id": "welcome"}


class Relay(EmailBackend):
    """A project's own."""


# The options of a host, a message, and what of it is sent in which way.
RULES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # The sender is the host's unless the message names its own.
    *((BOTH, {"from_email": each}, {"from_email": SHOP}) for each in (None, "", PROJECT)),
    *((each, {"from_email": ROOT}, {"from_email": ALERT}) for each in (BOTH, SERVER)),
    (BOTH, {"from_email": f"P <{PROJECT}>"}, {"from_email": f"P <{PROJECT}>"}),
    (DEFAULT, {"from_email": ROOT}, {"from_email": ROOT}),
    (SERVER, {}, {"from_email": PROJECT}),
    # Anymail: None is then the sender that the template has.
    (BOTH, NO_SENDER, {"from_email": None}),
    (BOUNCES, NO_SENDER, {"from_email": None, "envelope_sender": BACK}),
    # A message gets a Reply-To that says nothing of it.
    (REPLY_TO, {}, {"reply_to": ["Shop <help@example.com>"]}),
    (REPLY_TO, {"reply_to": [ME]}, {"reply_to": [ME]}),
    (REPLY_TO, {"extra_headers": {"reply-to": ME}}, {"reply_to": []}),
    # It gets headers that it does not have.
    (HEADERS, {}, {"extra_headers": {"X-Shop": "Bücher", "X-A": "2"}}),
    (HEADERS, {"extra_headers": OWN_HEADER}, {"extra_headers": {**OWN_HEADER, "X-A": "2"}}),
    # Bounces go where the host says unless the message says something.
    (BOUNCES, {}, {"envelope_sender": BACK, "from_email": PROJECT}),
    *((BOUNCES, {"envelope_sender": each}, {"envelope_sender": BACK}) for each in (None, "")),
    # Anymail's "not set" is a class.
    (BOUNCES, {"envelope_sender": type}, {"envelope_sender": BACK}),
    (BOUNCES, {"envelope_sender": ME}, {"envelope_sender": ME}),
    (BOUNCES, {"extra_headers": {"FROM": ME}}, {"envelope_sender": None}),
]


@pytest.mark.parametrize(("options", "given", "expected"), RULES)
def test_host_changes_what_the_message_does_not_say(options, given, expected, message):
    vars(message).update(given)
    before = copy.deepcopy(vars(message))
    host = wrapped(**options)
    assert host.send_messages([message]) == 1
    (sent,) = host.got
    assert {name: getattr(sent, name, None) for name in expected} == expected
    assert vars(message) == {**before, "anymail_status": "queued"}


@pytest.mark.parametrize(("options", "expected"), [(SERVER, ALERT), (BOTH, SHOP)])
@override_settings(SERVER_EMAIL=PROJECT)
def test_project_with_one_address_for_both_gets_the_default_first(options, expected, message):
    host = wrapped(**options)
    host.send_messages([message])
    assert host.got[0].from_email == expected


OUTER = "_reply_to=outer@x.example&_envelope_from=outer@y.example&_header-X=outer"
INNER = f"{OUTER.replace('outer', 'inner')}&_default_from_email={ME}&_header-Y=inner"


@pytest.fixture
def hosts(serve, settings):
    """Hosts that lead to one server. Return it."""
    server = serve()
    smtp = f"smtp://127.0.0.1:{server.port}"
    settings.EMAIL_HOSTS = {
        "default": smtp,
        "all": "failover:default",
        "router": "backend://email_hosts.backends.RoutingBackend",
        "own": f"backend://{__name__}.Relay?host=127.0.0.1&port={server.port}",
        "inner": f"{smtp}?{INNER}",
        "middle": "failover:inner",
        "outer": f"failover:middle?{OUTER}",
    }
    return server


each_host = pytest.mark.parametrize("key", ["default", "all", "router", "own"])


@pytest.mark.parametrize("key", ["default", "own"])
@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        (DEFAULT, {}, (BACK, SHOP)),
        ({}, {"from_email": ME}, (BACK, ME)),
        (DEFAULT, {"extra_headers": {"From": ME}}, ("shop@example.com", ME)),
        ({}, {"extra_headers": {"from": ME}}, (PROJECT, PROJECT)),
        ({}, {"envelope_sender": ME}, (ME, PROJECT)),  # by Anymail's name for it
        ({}, {"envelope_sender": SHOP, "extra_headers": {"From": ME}}, (PROJECT, ME)),
    ],
)
def test_envelope_is_no_header(key, options, given, expected, message, hosts):
    vars(message).update(given)
    with get_connection(key, envelope_from=f"B <{BACK}>", **options) as connection:
        connection.send_messages([message])
    (accepted,) = hosts.accepted
    assert (accepted.sender, message_from_bytes(accepted.content)["From"]) == expected


def test_envelope_is_no_sender_of_smtp(message, hosts):
    """Django refuses a message without one."""
    message.from_email = None
    connection: Any = get_connection("default", envelope_from=BACK)
    assert connection.apply_host(message).from_email is None


def test_outer_host_comes_before_the_one_that_it_sends_through(message, hosts):
    assert get_connection("outer").send_messages([message]) == 1
    (accepted,) = hosts.accepted
    sent = message_from_bytes(accepted.content)
    assert accepted.sender == "outer@y.example"
    expected = {"From": ME, "Reply-To": "outer@x.example", "X": "outer", "Y": "inner"}
    assert {name: sent[name] for name in expected} == expected


@each_host
def test_options_of_a_call_are_taken_by_each_host(key, new_message, hosts):
    people = [f"someone{number}@x.example" for number in range(100)]
    message = new_message(to=["a@b.example", "Me <me@c.example>"], bcc=people)
    added: Any = {"headers": {"X-Shop": "news"}, "reply_to": "a@b.c", "redirect_to": "qa@b.c"}
    with get_connection(key, **added, allowed_recipients=["c.example"]) as connection:
        assert connection.send_messages([message]) == 1
    (accepted,) = hosts.accepted
    assert accepted.recipients == ("qa@b.c", "me@c.example")
    sent = message_from_bytes(accepted.content, policy=policy.default)
    assert (sent["X-Shop"], sent["Reply-To"], sent["Bcc"]) == ("news", "a@b.c", None)
    assert sent["To"] == "qa@b.c, Me <me@c.example>"
    assert sent["X-Original-To"].split(", ") == message.recipients()


@each_host
@pytest.mark.parametrize("name", ["X-A\nBcc", "X-A\rBcc"])
def test_line_break_in_the_name_of_a_header_is_refused(key, name, new_message, hosts):
    """It would begin another header."""
    message = new_message(headers={name: "evil@example.net"})
    with pytest.raises(ValueError, match=r"header.*line break"):
        get_connection(key).send_messages([message])
    assert hosts.accepted == []


class TestCallersMessage:
    """It is as it was after a send, but for what the backend notes on it."""

    @pytest.fixture(params=[{**BOTH, **HEADERS, **BOUNCES, "redirect_to": ME}, REPLY_TO])
    def host(self, request):
        return wrapped(**request.param)

    def test_has_what_a_backend_notes_that_fails(self, host, message):
        """django-ses puts the provider's id among the headers, django-post-office Reply-To."""

        def note(messages):
            messages[0].extra_headers |= {"message_id": "1", "Reply-To": "host@example.com"}
            vars(messages[0])["_connection"] = "of the backend"
            messages[0].anymail_status = "queued"
            raise OSError("no")

        message.extra_headers["X-Own"] = "1"
        before = {**vars(message), "extra_headers": {"X-Own": "1", "message_id": "1"}}
        host.wrapped.send_messages = note
        with pytest.raises(OSError, match="no"):
            host.send_messages([message])
        assert vars(message) == {**before, "anymail_status": "queued"}

    def test_has_nothing_that_is_set_for_sending_at_any_moment(self, host, message):
        """Another thread may send it, and a receiver of Anymail's may change what it gets."""
        names = "from_email to cc bcc reply_to extra_headers envelope_sender".split()
        before, meanwhile = {**vars(message)}, []

        def rewrite(messages):
            meanwhile.append({**vars(message)})
            for name in names:
                setattr(messages[0], name, "changed")
            return 1

        host.wrapped.send_messages = rewrite
        host.send_messages([message])
        assert [*meanwhile, vars(message)] == [before, before]

    @pytest.mark.parametrize("make", [RoutingBackend, partial(FailoverBackend, "default")])
    def test_has_what_the_backend_notes_through_other_hosts(self, make, message, settings):
        settings.EMAIL_HOSTS = {"default": "backend://conftest.Recorder?_header-X-Shop=1"}
        make(headers={"X-All": "1"}).send_messages([message])
        assert message.anymail_status == "queued"
        assert message.extra_headers == {}
