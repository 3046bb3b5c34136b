"""Wherever a send fails, no tool shows the login: the matrix of failures, ways and tools."""

import sys
import traceback
from base64 import b64encode
from contextlib import suppress
from io import StringIO

import pytest
import sentry_sdk
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.views.debug import ExceptionReporter
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
    "PLAIN refused": ({"AUTH": f"535 no {USERNAME} with {PASSWORD}"}, "PLAIN"),
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
ERRORS = (OSError, ValueError, InvalidEmailHost, CommandError)


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


def with_django(caught):
    """Return the debug page, which is also what ADMINS get, as HTML and as text."""
    reporter = ExceptionReporter(None, type(caught.value), caught.value, caught.tb)
    return reporter.get_traceback_html() + reporter.get_traceback_text()


SHOW_FRAMES = (with_traceback, with_pytest, with_sentry)
TOOLS = (*SHOW_FRAMES, with_django)


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
    hosts = {"shop": dsn, "all": "failover:shop"}
    with override_settings(EMAIL_HOSTS=hosts, EMAIL_HOSTS_ROUTER=lambda message: "shop"):
        if failure == "parked":
            get_connection("shop").send_messages([EmailMessage(to=["a@example.net"])])
            replies |= {"MAIL": CLOSE, "AUTH": "535 no"}
        yield


def send(failure, way, **options):
    subject = "a\nb" if failure == "bad message" else "Hello"
    message = EmailMessage(subject, "World", to=["a@example.net"])
    is_router = way == "router"
    connection = RoutingBackend(**options) if is_router else get_connection(way, **options)
    connection.send_messages([message])


def assert_hidden(shown):
    __tracebackhide__ = True
    assert [secret for secret in SECRETS if secret in shown] == []


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("way", ["shop", "all", "router"])
@pytest.mark.parametrize("failure", [*SCRIPTS, *OTHERS])
class TestFailure:
    def test_is_shown_without_the_login(self, failure, way):
        with pytest.raises(ERRORS) as caught:
            send(failure, way)
        for shown in (tool(caught) for tool in TOOLS):
            assert type(caught.value).__name__ in shown
            assert_hidden(shown)

    def test_is_shown_to_a_receiver_without_the_login(self, failure, way):
        """While frames are still at work, and afterwards."""
        errors: list[Exception] = []
        shown: list[str] = []

        def receive(error, **others):
            errors.append(error)
            with pytest.raises(type(error)) as caught:
                raise error
            shown.extend(tool(caught) for tool in SHOW_FRAMES)

        message_failed.connect(receive)
        with pytest.raises(ERRORS):
            send(failure, way)
        message_failed.disconnect(receive)
        receive(*errors)
        assert len(shown) == 2 * len(SHOW_FRAMES)
        assert_hidden("".join(shown))

    def test_is_logged_without_the_login(self, failure, way, caplog):
        caplog.set_level("DEBUG")
        with suppress(*ERRORS):  # what is not of mail is raised
            send(failure, way, fail_silently=True)
        assert_hidden(caplog.text)


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("failure", sorted({*SCRIPTS, *OTHERS} - {"bad message"}))
def test_command_prints_no_login(failure):
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("sendtestemailhosts", "shop", "a@example.net", stdout=out)
    assert_hidden(out.getvalue() + "".join(tool(caught) for tool in TOOLS))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no notes")
@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("tool", SHOW_FRAMES)
@pytest.mark.parametrize("failure", ["no server", "MAIL refused"])
def test_host_is_shown(failure, tool):  # pragma: notes-only
    with pytest.raises(OSError, match=r"refused|no") as caught:
        send(failure, "shop")
    assert 'email host "shop" (127.0.0.1:' in tool(caught).replace("\\", "")


@pytest.mark.parametrize("tool", TOOLS)
def test_login_in_a_frame_would_be_found(tool):
    def log_in(initial_response):
        raise OSError("no")

    with pytest.raises(OSError, match="no") as caught:
        log_in(PASSWORD)
    assert PASSWORD in tool(caught)
