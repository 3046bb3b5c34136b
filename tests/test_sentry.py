"""No frame of a send that fails shows the login, in whatever shows local variables."""

import smtplib
import sys
import traceback
from base64 import b64encode

import pytest
import sentry_sdk
from django.core.mail import EmailMessage
from django.test import override_settings
from scripted import BODY, CLOSE

from email_hosts.backends import RoutingBackend, get_connection
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.signals import message_failed

USERNAME, PASSWORD = "Kx7vQz9-name", "Wj4bYt2-word"
SECRETS = [
    encoded
    for secret in (USERNAME, PASSWORD, f"\0{USERNAME}\0{PASSWORD}")
    for encoded in (secret, b64encode(secret.encode()).decode().rstrip("="))
]

# What the server answers, and how it lets clients log in.
SCRIPTS = {
    "banner": ({"banner": "554 no"}, "PLAIN"),
    "greeting": ({"EHLO": "502 no", "HELO": "502 no"}, "PLAIN"),
    "PLAIN refused": ({"AUTH": "535 no"}, "PLAIN"),
    "LOGIN refused": ({"AUTH": "334 UGFzc3dvcmQ6"}, "LOGIN"),
    "CRAM-MD5 refused": ({"AUTH": "334 PDFAZXhhbXBsZS5jb20+"}, "CRAM-MD5"),
    "all refused": ({"AUTH": "535 no"}, "CRAM-MD5 LOGIN PLAIN"),
    "no way to log in": ({}, "X"),
    "bad challenge": ({"AUTH": "334 !!!notb64=a"}, "CRAM-MD5"),
    "lost at login": ({"AUTH": CLOSE}, "PLAIN"),
    "MAIL refused": ({"MAIL": "550 no"}, "PLAIN"),
    "MAIL lost": ({"MAIL": CLOSE}, "PLAIN"),
    "RCPT refused": ({"RCPT": "550 no"}, "PLAIN"),
    "DATA refused": ({"DATA": "554 no"}, "PLAIN"),
    "body refused": ({BODY: "554 spam"}, "PLAIN"),
    "body lost": ({BODY: CLOSE}, "PLAIN"),
    "bad message": ({}, "PLAIN"),
    "parked": ({}, "PLAIN"),
}
OTHERS = ("no server", "untrusted certificate", "no TLS", "no such certificate", "not ASCII")


def with_traceback(caught):
    error = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    return "".join(error.format())


def with_pytest(caught):
    return str(caught.getrepr(showlocals=True, style="long"))


def with_sentry(caught):
    kept = []

    class Transport(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope):
            kept.append(envelope.serialize().decode())

    client = sentry_sdk.Client(
        "https://key@sentry.example.com/1", transport=Transport, default_integrations=False
    )
    options = {"client_options": client.options}
    client.capture_event(*sentry_sdk.utils.event_from_exception(caught.value, **options))
    return "".join(kept)


TOOLS = (with_traceback, with_pytest, with_sentry)


@pytest.fixture
def hosts(failure, serve, start_server, tls, closed_port):
    """The host ``shop``, whose sends fail so, and ``all`` that sends through it."""
    replies, mechanisms = SCRIPTS.get(failure, ({}, "PLAIN"))
    replies = {"AUTH": "235 welcome", **replies}
    server = serve(lambda step, argument: replies.get(step), extensions=[f"AUTH {mechanisms}"])
    port = {
        "no server": closed_port,
        "untrusted certificate": start_server(context=tls).port,
    }.get(failure, server.port)
    scheme = "submission" if failure in {"untrusted certificate", "no TLS"} else "smtp"
    more = {"parked": "?conn_max_age=60", "no such certificate": "?tls&ssl_cafile=/no/such"}
    username = USERNAME + "%C3%BC" * (failure == "not ASCII")
    dsn = f"{scheme}://{username}:{PASSWORD}@127.0.0.1:{port}{more.get(failure, '')}"
    with override_settings(EMAIL_HOSTS={"shop": dsn, "all": "failover:shop"}):
        if failure == "parked":
            get_connection("shop").send_messages([EmailMessage(to=["a@example.net"])])
            replies |= {"MAIL": CLOSE, "AUTH": "535 no"}
        yield


def send(failure, way):
    subject = "a\nb" if failure == "bad message" else "Hello"
    message = EmailMessage(subject, "World", to=["a@example.net"])
    connection = RoutingBackend() if way == "router" else get_connection(way)
    connection.send_messages([message])


@pytest.mark.usefixtures("hosts")
@override_settings(EMAIL_HOSTS_ROUTER=lambda message: "shop")
@pytest.mark.parametrize("way", ["shop", "all", "router"])
@pytest.mark.parametrize("failure", [*SCRIPTS, *OTHERS])
def test_login_is_in_no_frame(failure, way):
    with pytest.raises((OSError, ValueError, InvalidEmailHost)) as caught:
        send(failure, way)
    for shown in (tool(caught) for tool in TOOLS):
        assert type(caught.value).__name__ in shown
        assert [secret for secret in SECRETS if secret in shown] == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no notes")
@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("failure", ["no server", "MAIL refused"])
def test_host_is_shown(failure, tool):  # pragma: notes-only
    with pytest.raises(OSError, match=r"refused|no") as caught:
        send(failure, "shop")
    assert 'email host "shop" (127.0.0.1:' in tool(caught).replace("\\", "")


class Receiver:
    """Shows the errors that it is told of to a tool."""

    def __init__(self, tool):
        self.tool = tool
        self.shown = []
        self.errors = []

    def show(self, error):
        with pytest.raises(type(error)) as caught:
            raise error
        self.shown.append(self.tool(caught))

    def receive(self, error, **others):
        self.errors.append(error)
        self.show(error)


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("way", ["shop", "all"])
@pytest.mark.parametrize("failure", [*SCRIPTS, *OTHERS])
def test_receiver_of_a_signal_is_shown_no_login(failure, way, tool):
    """While frames are still at work, and afterwards."""
    receiver = Receiver(tool)
    message_failed.connect(receiver.receive)
    with pytest.raises((OSError, ValueError, InvalidEmailHost)):
        send(failure, way)
    message_failed.disconnect(receiver.receive)
    receiver.show(*receiver.errors)
    (error,) = receiver.errors
    assert [type(error).__name__ in shown for shown in receiver.shown] == [True, True]
    assert [secret for secret in SECRETS if secret in "".join(receiver.shown)] == []


@pytest.mark.parametrize("tool", TOOLS)
def test_login_in_a_frame_would_be_found(tool):
    def log_in(initial_response):
        raise smtplib.SMTPAuthenticationError(535, b"no")

    with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
        log_in(PASSWORD)
    assert PASSWORD in tool(caught)
