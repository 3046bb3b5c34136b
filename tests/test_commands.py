"""sendtestemailhosts and checkemailhosts, against real servers."""

import queue
import re
import signal
import smtplib
import ssl
import sys
import threading
from contextlib import suppress
from functools import partial
from io import StringIO
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers, start_worker
from django.core.mail.backends.dummy import EmailBackend as DummyBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoBackend
from django.core.management import CommandError, ManagementUtility, call_command
from django.core.management.color import color_style
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from scripted import HANG, any_of, at

from email_hosts.backends import get_connection
from email_hosts.host import FAILOVER_BACKEND, HOST_BACKEND, SMTP_BACKEND
from email_hosts.management.concurrently import MAX_THREADS, concurrently
from email_hosts.management.explain_errors import explain, explain_refusals

SECRETS = ("Kx7vQz9", "Wj4bYt2")
LOGIN = ":".join(SECRETS)


def run(*command, hosts, **options):
    out = StringIO()
    with override_settings(EMAIL_HOSTS=hosts):
        call_command(*command, stdout=out, **options)
    assert not any(secret in out.getvalue() for secret in SECRETS)
    return out.getvalue()


CONSOLE = "django.core.mail.backends.console.EmailBackend"


def failure(*command, hosts, **options):
    """Return the line that a command fails with and those before it, without secrets."""
    out = StringIO()
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(CommandError) as caught:
        call_command(*command, stdout=out, **options)
    assert caught.value.returncode == 1
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message + out.getvalue() for secret in SECRETS)
    return message, out.getvalue().splitlines()


def error(*command, hosts):
    return failure(*command, hosts=hosts)[0]


def send_error(dsn, *recipients):
    recipients = recipients or ("a@example.net",)
    return error("sendtestemailhosts", "shop", *recipients, hosts={"shop": dsn})


class Hosted(DummyBackend):
    """One whose options look like those of an SMTP host."""

    def __init__(self, host, alias=""):
        super().__init__()


def token(username, *, renew):
    """Nobody asks for it here."""


class Terminal(StringIO):
    """Somebody watches."""

    def isatty(self):
        return True


class TestSend:
    """sendtestemailhosts HOST[,HOST...] EMAIL [EMAIL...]"""

    def test_sends_through_the_host(self, start_server):
        server = start_server()
        dsn = f"smtp://127.0.0.1:{server.port}?_default_from_email=shop@example.com"
        command = ("sendtestemailhosts", "shop", "a@example.net", "b@x.net")
        assert run(*command, hosts={"shop": dsn}) == (
            "Sent a test message through shop to a@example.net, b@x.net.\n"
        )
        (received,) = server.received
        assert received.sender == "shop@example.com"
        assert received.recipients == ["a@example.net", "b@x.net"]
        assert received.message["Subject"] == "Test message through shop"

    def test_says_where_a_host_redirects_to(self, start_server):
        server = start_server()
        dsn = (
            f"smtp://127.0.0.1:{server.port}?_redirect_to=QA <qa@example.com>"
            "&_allowed_recipients=x.net"
        )
        command = ("sendtestemailhosts", "shop", "a@example.net", "b@x.net")
        assert run(*command, hosts={"shop": dsn}) == (
            "Sent a test message through shop to qa@example.com, b@x.net, because the host "
            "redirects mail.\n"
        )
        assert server.received[0].recipients == ["qa@example.com", "b@x.net"]
        server.refused.add("qa@example.com")
        assert failure(*command, hosts={"shop": dsn})[1] == [
            "Sent a test message through shop to b@x.net."
        ]

    def test_delivers_to_the_outbox_in_tests(self, mailoutbox):
        call_command("sendtestemailhosts", "shop", "a@example.net", stdout=StringIO())
        assert [sent.sent_using for sent in mailoutbox] == ["shop"]

    @pytest.mark.parametrize("known", ["shop, club", "none"])
    def test_unknown_host_lists_the_known(self, known):
        hosts = {key: "smtp://h" for key in known.split(", ") if key != "none"}
        assert error("sendtestemailhosts", "x", "a@example.net", hosts=hosts) == (
            f"x: not sent: there is no such host; known hosts: {known}"
        )

    @pytest.mark.parametrize(
        ("hosts", "reason"),
        [
            ({"shop": "smpt://u:Kx7vQz9@h"}, "unknown scheme 'smpt'"),
            (["smtp://h"], "EMAIL_HOSTS must be a dict of DSN strings, not list"),
            ({"shop": ""}, "the host is empty; known hosts: none"),
            (
                {"shop": "smtps://h?ssl_cafile=/no/such"},
                "cannot load ssl_cafile: ",
            ),
        ],
    )
    def test_invalid_host_says_why(self, hosts, reason):
        message = error("sendtestemailhosts", "shop", "a@x.net", hosts=hosts)
        assert message.startswith(f"shop: not sent: {reason}")

    def test_unreachable_host_says_why(self, closed_port):
        assert send_error(f"smtp://127.0.0.1:{closed_port}") == (
            "shop: not sent: Connection refused"
        )

    def test_refused_login_says_why_without_the_user(self, start_server):
        server = start_server(login=("somebody", "else"))
        assert send_error(f"smtp://{LOGIN}@127.0.0.1:{server.port}") == (
            "shop: not sent: 535 5.7.8 no such login: *****"
        )

    @pytest.mark.parametrize(
        ("refused", "expected"),
        [
            (
                ["a@x.net", "b@x.net"],
                "not sent: recipients refused: 550 5.1.1 no such mailbox",
            ),
            (["b@x.net"], "refused b@x.net: 550 5.1.1 no such mailbox"),
        ],
    )
    def test_refused_recipients_say_why(self, refused, expected, start_server):
        dsn = f"smtp://127.0.0.1:{start_server(refused=refused).port}"
        assert send_error(dsn, "a@x.net", "b@x.net") == f"shop: {expected}"

    @pytest.mark.parametrize("dsn", [f"smtp://{LOGIN}@h", f"{LOGIN}@h", f"mailgun:k={LOGIN}"])
    def test_dsn_in_the_place_of_a_host_is_not_repeated(self, dsn):
        message = error("sendtestemailhosts", dsn, "a@example.net", hosts={})
        assert message.startswith("(a DSN): not sent: the key of a host must not be a ")

    def test_tls_on_a_port_without_it_says_so(self, start_server):
        dsn = f"submissions://127.0.0.1:{start_server().port}"
        assert send_error(dsn) == (
            "shop: not sent: the server does not begin with TLS; submission:// is for STARTTLS"
        )

    def test_port_that_may_wait_for_tls_says_so(self, serve):
        dsn = f"submission://127.0.0.1:{serve(at('banner', HANG)).port}?timeout=0.2"
        assert send_error(dsn) == (
            "shop: not sent: no answer in time; the server sent no greeting; if its port is "
            "for TLS, use submissions://"
        )

    @pytest.mark.parametrize(
        ("recipient", "name"),
        [
            ("me", "me"),
            ("a@b\nc@d", r"a@b\nc@d"),
            ("a@x.net,b@x.net", "a@x.net,b@x.net"),
            (f"smtp://{LOGIN}@h", "(a DSN)"),
        ],
    )
    def test_recipient_that_is_no_address_says_so(self, recipient, name):
        message = send_error("smtp://127.0.0.1:1", "b@x.net", recipient)
        assert message.startswith(f"Recipient '{name}' must be one email address in ASCII ")

    @pytest.mark.parametrize(
        ("outcome", "reason"),
        [
            (0, "the backend took no message"),
            (RuntimeError("out of paper"), "RuntimeError: out of paper"),
        ],
    )
    def test_backend_that_takes_nothing_or_fails_is_no_success(
        self, outcome, reason, monkeypatch
    ):
        monkeypatch.setattr(DummyBackend, "send_messages", mock.Mock(side_effect=[outcome]))
        assert send_error("dummy:") == f"shop: not sent: {reason}"

    def test_several_hosts_each_send_a_message(self, start_server, closed_port):
        server = start_server()
        hosts = {
            "up": f"smtp://127.0.0.1:{server.port}",
            "down": f"smtp://127.0.0.1:{closed_port}",
        }
        message, lines = failure("sendtestemailhosts", "down, up", "a@x.net", hosts=hosts)
        assert message == "1 of 2 failed: down"
        assert lines == [
            "down: not sent: Connection refused",
            "Sent a test message through up to a@x.net.",
        ]
        assert len(server.received) == 1

    def test_mistake_in_another_host_does_not_matter(self, tmp_path):
        hosts = {"folder": f"file:{tmp_path}", "broken": "smpt://h"}
        command = ["manage.py", "sendtestemailhosts", "folder", "a@x.net"]
        with override_settings(EMAIL_HOSTS=hosts):
            # As on the command line, where system checks come first.
            ManagementUtility(command).execute()
        assert len(list(tmp_path.iterdir())) == 1


# Ctrl-C is ignored where the tests run in the background.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from django.core.management import execute_from_command_line
execute_from_command_line({})
"""


@pytest.fixture
def interruptible():
    """Let Ctrl-C interrupt also where the tests run in the background, which ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


class TestCheck:
    """checkemailhosts [--connect] [HOST...]"""

    HOSTS = {
        "shop": f"submission://{LOGIN}@smtp.example.com?_default_from_email=s@example.com",
        "newsletter": "smtps://[2001:db8::25]",
        "local": "smtp://localhost",
        "folder": "file:mail/out?_default_from_email=f@example.com",
        "debug": "console://",
        "empty": "",
    }
    TABLE = """\
HOST        SCHEME      SERVER                SECURITY  USER   SENDER         STATUS
shop        submission  smtp.example.com:587  STARTTLS  *****  s@example.com  valid
newsletter  smtps       [2001:db8::25]:465    TLS       -      -              valid
local       smtp        localhost:25          none      -      -              valid
folder      file        mail/out              -         -      f@example.com  valid
debug       console     -                     -         -      -              valid
empty       -           -                     -         -      -              is empty, as if there were no such host.
"""  # noqa: E501

    @pytest.fixture(autouse=True)
    def in_a_folder_of_its_own(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_shows_each_host(self, tmp_path):
        assert run("checkemailhosts", hosts=self.HOSTS) == self.TABLE
        assert list(tmp_path.iterdir()) == []

    def test_shows_below_a_host_what_it_does_to_messages(self):
        """Not what headers say: that may be a token."""
        dsn = (
            "console://?_reply_to=Help <help@example.com>&_envelope_from=b@example.com"
            "&_header-X-Shop=Kx7vQz9&_header-X-Mark=1&_redirect_to=qa@example.com"
        )
        hosts = {"a": dsn, "b": f"{dsn}&_allowed_recipients=example.org, c@d.example"}
        lines = run("checkemailhosts", hosts=hosts).splitlines()
        assert lines[2:6] == [
            "    reply to: Help <help@example.com>",
            "    envelope from: b@example.com",
            "    headers: X-Shop, X-Mark",
            "    redirect to: qa@example.com",
        ]
        assert lines[6].startswith("b ")
        assert lines[7:] == [*lines[2:6], "    allowed recipients: example.org, c@d.example"]

    def test_shows_where_tokens_come_from(self):
        grant = (
            "oauth2=client_credentials&oauth2_token_url=https://login.example.com/token"
            f"&oauth2_client_id=id&oauth2_client_secret={SECRETS[0]}"
        )
        hosts = {
            "a": f"submission://{SECRETS[1]}@h?{grant}",
            "b": f"submission://{SECRETS[1]}@h?oauth2={__name__}.token",
        }
        lines = run("checkemailhosts", hosts=hosts).splitlines()
        assert "  ***** (oauth2: login.example.com)  " in lines[1]
        assert f"  ***** (oauth2: {__name__}.token)  " in lines[2]

    @needs_mailers
    @pytest.mark.parametrize("source", [token, partial(token, SECRETS[0])])
    def test_shows_no_more_of_a_callable(self, source):  # pragma: mailers-only
        options = {"host": "h", "username": SECRETS[1], "use_tls": True, "oauth2": source}
        with override_settings(MAILERS={"a": {"BACKEND": SMTP_BACKEND, "OPTIONS": options}}):
            line = run("checkemailhosts", hosts={}).splitlines()[1]
        assert "  ***** (oauth2: a callable)  " in line

    def test_host_that_tests_capture_is_not_connected_to(self):
        out = StringIO()
        call_command("checkemailhosts", connect=True, stdout=out)
        assert len(re.findall("  OK [0-9]+ ms", out.getvalue())) == 2

    def test_shows_the_hosts_asked_for(self):
        lines = run("checkemailhosts", "local", "debug", hosts=self.HOSTS).splitlines()
        assert [line.split() for line in lines[1:]] == [
            ["local", "smtp", "localhost:25", "none", "-", "-", "valid"],
            ["debug", "console", "-", "-", "-", "-", "valid"],
        ]

    def test_unknown_host_lists_the_known(self):
        assert error("checkemailhosts", "local", "x", hosts=self.HOSTS) == (
            "There is no host 'x'. Known hosts: shop, newsletter, local, folder, debug, empty."
        )

    def test_no_hosts_are_no_error(self):
        assert run("checkemailhosts", hosts={}) == "EMAIL_HOSTS names no host.\n"

    def test_no_dict_is_an_error(self):
        assert "not list" in error("checkemailhosts", hosts=["smtp://h"])

    @pytest.mark.parametrize(
        ("key", "dsn", "shown", "status"),
        [
            ("shop", f"smtp://{LOGIN}@h?timout=5", "shop", "did you mean 'timeout'?"),
            (
                "shop",
                "failover:a,b",
                "shop",
                'names hosts that do not exist: "a", "b".',
            ),
            ("shop", "anymail+mailgum:", "shop", "did you mean 'anymail+mailgun'?"),
            (7, "smtp://h", "7", "the key of a host must be a string, not int"),
            (f"smtp://{LOGIN}@h".encode(), "smtp://h", "(a DSN)", "a string, not bytes"),
            (
                f"smtp://{LOGIN}@h",
                "smtp://h",
                "(a DSN)",
                "or pass it to connection_from_dsn()",
            ),
            ("a", {"BACKEND": SMTP_BACKEND}, "a", "must be a DSN string, not dict"),
            ("a\n\x1b[2J", "smpt://h", r"a\n\x1b[2J", "did you mean 'smtp'?"),
        ],
    )
    def test_host_that_is_not_valid_is_shown_as_check_says_it(self, key, dsn, shown, status):
        hosts = {key: dsn, "local": "smtp://localhost"}
        message, (_, line, _) = failure("checkemailhosts", hosts=hosts)
        assert message == f"1 of 2 failed: {shown}"
        assert line.startswith(f"{shown} ")
        assert line.endswith(status)

    @pytest.mark.parametrize(
        ("dsn", "strict", "status"),
        [
            (
                "submission://h:465",
                False,
                "has port 465, where a server expects TLS from the first byte (RFC 8314).",
            ),
        ],
    )
    def test_warning_is_no_failure(self, dsn, strict, status):
        with override_settings(EMAIL_HOSTS_STRICT=strict):
            assert run("checkemailhosts", hosts={"a": dsn}).endswith(f"  {status}\n")

    def test_error_is_shown_before_a_warning(self):
        line = failure("checkemailhosts", hosts={"a": "backend://a.B?port=465"})[1][1]
        assert "cannot be imported" in line

    @needs_mailers
    @override_settings(MAILERS={"default": {"OPTIONS": {"host": "mailer"}}, "m": {}})
    def test_mailers_are_not_tried(self):  # pragma: mailers-only
        hosts = {"default": "smtp://h", "all": "failover:m"}
        _, hidden, several = run("checkemailhosts", hosts=hosts, connect=True).splitlines()
        assert hidden.endswith('is not used: MAILERS["default"] comes first.')
        assert several.endswith("m: not tried, because it is only in MAILERS")

    @needs_mailers
    def test_mailers_with_our_backends_are_hosts(self, start_server):  # pragma: mailers-only
        server = {"host": "127.0.0.1", "port": start_server().port}
        added = {"default_from_email": "a@example.com", "redirect_to": "qa@example.com"}
        mailers = {
            "default": {"BACKEND": "email_hosts.backends.RoutingBackend"},
            "django": {"OPTIONS": server},
            "shop": {"BACKEND": SMTP_BACKEND, "OPTIONS": {**server, **added}},
            "tls": {"BACKEND": SMTP_BACKEND, "OPTIONS": {"host": "::1", "use_tls": True}},
            "odd": {"BACKEND": SMTP_BACKEND, "OPTIONS": {"host": 5}},
            "all": {"BACKEND": FAILOVER_BACKEND, "OPTIONS": {"hosts": ["shop"]}},
            "own": {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": CONSOLE, **added}},
        }
        with override_settings(MAILERS=mailers):
            message, lines = failure("checkemailhosts", hosts={})
            tried = run("checkemailhosts", "all", hosts={}, connect=True)
        assert message == "1 of 5 failed: odd"
        assert [line.split()[:4] for line in lines[1:]] == [
            ["shop", "MAILERS", f"127.0.0.1:{server['port']}", "none"],
            ["redirect", "to:", "qa@example.com"],
            ["tls", "MAILERS", "[::1]:587", "STARTTLS"],
            ["odd", "-", "-", "-"],
            ["all", "MAILERS", "shop", "-"],
            ["own", "MAILERS", "-", "-"],
            ["redirect", "to:", "qa@example.com"],
        ]
        assert lines[4].endswith("  option 'host' must be text, not int")
        assert re.search("  shop: OK [0-9]+ ms\n$", tried)

    def test_members_of_several_hosts_are_shown_and_tried(self, start_server, closed_port):
        hosts = {
            "a": f"smtp://127.0.0.1:{start_server().port}",
            "b": f"smtp://127.0.0.1:{closed_port}",
            "c": "smpt://h",
            "good": "failover:a",
            "half": "roundrobin:c,b,a?_default_from_email=x@example.com",
            "bad": "failover:b,c",
            "worse": "failover:bad,b",
            "itself": "failover:a,itself",
        }
        message, lines = failure("checkemailhosts", hosts=hosts, connect=True)
        assert message == "5 of 8 failed: b, c, bad, worse, itself"
        good, half, bad, worse, itself = lines[4:]
        assert re.search("failover .* a: OK [0-9]+ ms$", good)
        assert " roundrobin  c, b, a " in half
        assert re.search("  c: .*'smtp'[?]; b: Connection refused; a: OK [0-9]+ ms$", half)
        assert re.search("  b: Connection refused; c: unknown scheme .*$", bad)
        assert "  bad: b: Connection refused; c: unknown scheme " in worse
        assert itself.endswith("leads back to itself: itself -> itself.")
        # One that works is enough, asked for alone too.
        assert "b: Connection refused; a: OK" in run(
            "checkemailhosts", "half", hosts=hosts, connect=True
        )

    def test_connects_through_tls_and_login_and_sends_nothing(
        self, start_server, tls, cafile, tmp_path
    ):
        server = start_server(context=tls, login=SECRETS)
        address = f"127.0.0.1:{server.port}"
        hosts = {
            "good": f"submission://{LOGIN}@{address}?ssl_cafile={cafile}",
            "wrong": f"submission://{LOGIN}x@{address}?ssl_cafile={cafile}",
            "foreign": f"submission://{LOGIN}@{address}",
            "unreadable": f"submission://{address}?ssl_cafile={tmp_path}/no",
            "folder": f"file:{tmp_path}/out",
            "provider": f"backend://{__name__}.Hosted?host=example.com",
            "empty": "",
        }
        message, lines = failure("checkemailhosts", hosts=hosts, connect=True)
        assert message == "3 of 7 failed: wrong, foreign, unreadable"
        _, good, wrong, foreign, unreadable, folder, provider, empty = lines
        assert re.search("  OK [0-9]+ ms$", good)
        assert wrong.endswith("  535 5.7.8 no such login: *****")
        assert "  certificate not trusted: " in foreign
        assert "  cannot load ssl_cafile: " in unreadable
        assert folder.endswith("  OK, no server to connect to")
        assert provider.endswith("  OK, no server to connect to")
        assert empty.endswith("  is empty, as if there were no such host.")
        assert list((tmp_path / "out").iterdir()) == []
        assert server.received == []

    @pytest.mark.parametrize(
        ("ehlo", "status"),
        [("250 h", "OK "), ("421 4.7.0 Try again later", "421 4.7.0 Try again later")],
    )
    def test_connecting_includes_the_greetings_of_both_sides(self, ehlo, status, serve):
        server = serve(any_of(at("EHLO", ehlo), at("HELO", ehlo)))
        hosts = {"a": f"smtp://127.0.0.1:{server.port}"}
        out = StringIO()
        with override_settings(EMAIL_HOSTS=hosts), suppress(CommandError):
            call_command("checkemailhosts", connect=True, stdout=out)
        assert f"  {status}" in out.getvalue()

    def test_tries_the_hosts_side_by_side(self, serve):
        together = threading.Barrier(3)

        def script(step, argument):
            if step == "banner":
                together.wait()  # until each host has been connected to

        hosts = {
            f"host{i}": f"smtp://127.0.0.1:{serve(script).port}?timeout=20" for i in range(3)
        }
        assert run("checkemailhosts", hosts=hosts, connect=True).count("OK") == 3

    def test_ctrl_c_ends_it_without_a_traceback(self, serve, interruptible):
        def press_ctrl_c(step, argument):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return HANG

        hosts = {"a": f"smtp://127.0.0.1:{serve(press_ctrl_c).port}"}
        with (
            override_settings(EMAIL_HOSTS=hosts),
            pytest.raises(CommandError, match=r"^Interrupted. 1 pending.$") as caught,
        ):
            call_command("checkemailhosts", connect=True, stdout=StringIO())
        assert caught.value.returncode == 130

    def test_ctrl_c_does_not_wait_for_a_host_that_does_not_answer(self, serve, tmp_path):
        processes: queue.Queue[Any] = queue.Queue()

        def press_ctrl_c(step, argument):
            processes.get().send_signal(signal.SIGINT)
            return HANG

        code = INTERRUPTIBLE.format(["", "checkemailhosts", "--connect"])
        server = serve(press_ctrl_c)
        with start_worker(server, tmp_path, [sys.executable, "-c", code]) as process:
            processes.put(process)
            assert process.wait(timeout=30) == 130  # the timeout of the host is 60
            assert "Interrupted. 1 pending." in process.stdout.read()

    @override_settings(EMAIL_HOSTS={"good": "smtp://h", "none": "", "bad": "smpt://h"})
    def test_has_colours_that_can_be_switched_off(self):
        shown = {}
        for colours in ("force_color", "no_color"):
            out = Terminal()
            with pytest.raises(CommandError, match="1 of 3 failed: bad"):
                call_command("checkemailhosts", stdout=out, **{colours: True})
            shown[colours] = out.getvalue()
        style = color_style(force_color=True)
        assert style.MIGRATE_HEADING("HOST")[:-4] in shown["force_color"]
        assert style.SUCCESS("valid") in shown["force_color"]
        assert style.WARNING("is empty")[:-4] in shown["force_color"]
        assert style.ERROR("unknown scheme")[:-4] in shown["force_color"]
        assert "\x1b" not in shown["no_color"]
        assert re.sub(r"\x1b\[[0-9;]*m", "", shown["force_color"]) == shown["no_color"]


# Without control characters, which neither a DSN nor SMTP can have.
PRINTABLE = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)


def connection_to(dsn):
    with override_settings(EMAIL_HOSTS={"one": dsn}):
        return get_connection("one")


SMTP_SETTINGS: dict[str, Any] = {
    "EMAIL_HOST": "smtp.example.com",
    "EMAIL_PORT": 25,
    "EMAIL_HOST_USER": "",
    "EMAIL_HOST_PASSWORD": "",
    "EMAIL_USE_TLS": False,
    "EMAIL_USE_SSL": False,
    "EMAIL_TIMEOUT": None,
    "EMAIL_SSL_CERTFILE": None,
    "EMAIL_SSL_KEYFILE": None,
}
WITH_LOGIN = {"EMAIL_HOST_USER": SECRETS[0], "EMAIL_HOST_PASSWORD": SECRETS[1]}


@pytest.mark.filterwarnings(
    "ignore:The EMAIL_[A-Z_]+ setting is deprecated",
    "ignore:Directly creating EmailBackend instances is deprecated",
)
class TestFromSettings:
    """checkemailhosts --from-settings [--show-password]"""

    def shown(self, *options, **settings):
        out = StringIO()
        with override_settings(**{**SMTP_SETTINGS, **settings}):
            call_command("checkemailhosts", "--from-settings", *options, stdout=out)
        return out.getvalue().removesuffix("\n")

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, "smtp://smtp.example.com"),
            ({"EMAIL_PORT": 587, "EMAIL_USE_TLS": True}, "submission://smtp.example.com"),
            ({"EMAIL_PORT": "465", "EMAIL_USE_SSL": True}, "submissions://smtp.example.com"),
            ({"EMAIL_USE_TLS": True}, "submission://smtp.example.com:25"),
            ({"EMAIL_HOST": "::1", "EMAIL_PORT": 2525}, "smtp://[::1]:2525"),
            ({"EMAIL_HOST": "fe80::1%eth0"}, "smtp://[fe80::1%25eth0]"),
            ({"EMAIL_HOST": "localhost."}, "smtp://localhost"),
            ({"EMAIL_TIMEOUT": 2.5}, "smtp://smtp.example.com?timeout=2.5"),
            (
                {"EMAIL_SSL_CERTFILE": "/etc/a b.pem", "EMAIL_SSL_KEYFILE": "/etc/k&.pem"},
                "smtp://smtp.example.com?ssl_certfile=/etc/a%20b.pem&ssl_keyfile=/etc/k%26.pem",
            ),
            (WITH_LOGIN, "smtp://*****:*****@smtp.example.com"),
            ({"EMAIL_HOST_USER": SECRETS[0]}, "smtp://smtp.example.com"),
        ],
    )
    def test_shows_the_dsn(self, settings, expected):
        assert self.shown(**settings) == expected

    def test_shows_the_login_if_asked(self):
        login = {"EMAIL_HOST_USER": "me@example.com", "EMAIL_HOST_PASSWORD": "p/a#s+%"}
        assert self.shown("--show-password", **login) == (
            "smtp://me%40example.com:p%2Fa%23s%2B%25@smtp.example.com"
        )

    @pytest.mark.fuzz
    @given(
        st.fixed_dictionaries(
            {
                "EMAIL_HOST": st.sampled_from(["localhost", "192.0.2.1", "::1"]),
                "EMAIL_PORT": st.integers(1, 65535) | st.sampled_from([25, 465, 587]),
                "EMAIL_HOST_USER": st.just("") | PRINTABLE,
                "EMAIL_HOST_PASSWORD": st.just("") | PRINTABLE,
                "EMAIL_TIMEOUT": st.none() | st.integers(1, 3600) | st.just(0.5),
                "EMAIL_SSL_CERTFILE": st.none() | PRINTABLE,
            }
        ),
        st.sampled_from([(False, False), (False, True), (True, False)]),
    )
    def test_stands_for_the_same_backend(self, settings, flags):
        settings |= dict(zip(("EMAIL_USE_SSL", "EMAIL_USE_TLS"), flags, strict=True))
        dsn = self.shown("--show-password", **settings)
        ours = connection_to(dsn)
        with override_settings(**{**SMTP_SETTINGS, **settings}):
            django = DjangoBackend()
        if not (django.username and django.password):
            django.username = django.password = ""  # it does not log in then
        for name in ("host", "port", "username", "password", "use_tls", "use_ssl"):
            assert getattr(ours, name) == getattr(django, name)
        assert ours.timeout == (django.timeout or 60)
        assert ours.ssl_certfile == (django.ssl_certfile or "")

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"EMAIL_USE_SSL": True, "EMAIL_USE_TLS": True}, "are mutually exclusive"),
            ({"EMAIL_HOST": ""}, "EMAIL_HOST must be a host name or an IP address"),
            ({"EMAIL_HOST": "https://h", **WITH_LOGIN}, "EMAIL_HOST must be a host name"),
            ({"EMAIL_PORT": None}, "EMAIL_PORT must be a whole number"),
            ({"EMAIL_TIMEOUT": 0}, "EMAIL_TIMEOUT must be a positive number"),
            ({"EMAIL_SSL_KEYFILE": "/k.pem"}, "option 'ssl_keyfile' needs 'ssl_certfile'"),
            ({"EMAIL_HOST_USER": "a\nb", "EMAIL_HOST_PASSWORD": "p"}, "a control character"),
        ],
    )
    def test_settings_that_no_dsn_stands_for_say_why(self, settings, reason):
        with pytest.raises(CommandError, match=reason) as caught:
            self.shown(**settings)
        assert not any(secret in str(caught.value) for secret in SECRETS)

    @needs_mailers
    def test_mailers_take_their_place(self):  # pragma: mailers-only
        with (
            override_settings(MAILERS={}),
            pytest.raises(CommandError, match="remove MAILERS for this command"),
        ):
            call_command("checkemailhosts", "--from-settings")


@pytest.mark.parametrize(
    ("output", "order"), [(Terminal, ["fast", "slow"]), (StringIO, ["slow", "fast"])]
)
@pytest.mark.parametrize(
    "command",
    [["checkemailhosts", "--connect"], ["sendtestemailhosts", "slow,fast", "a@example.net"]],
)
def test_on_a_terminal_a_host_is_shown_as_soon_as_it_is_done(
    command, output, order, serve, closed_port
):
    out = output()
    hosts = {
        "slow": f"smtp://127.0.0.1:{serve(at('banner', HANG)).port}?timeout=0.5",
        "fast": f"smtp://127.0.0.1:{closed_port}",
    }
    with (
        override_settings(EMAIL_HOSTS=hosts),
        pytest.raises(CommandError, match="2 of 2 failed: "),
    ):
        call_command(*command, stdout=out, no_color=True)
    shown = out.getvalue()
    assert re.findall("^(fast|slow)", shown.replace("\r", "\n"), re.MULTILINE) == order
    is_counted = output is Terminal and command[0] == "checkemailhosts"
    assert shown.count("1 pending \r") == is_counted


def tls_error(reason):
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            tls_error("RECORD_LAYER_FAILURE"),
            "the server does not begin with TLS; submission:// is for STARTTLS",
        ),
        (tls_error("BAD_RECORD"), "[SSL: BAD_RECORD]"),
        (smtplib.SMTPServerDisconnected("Connection\nclosed"), "Connection closed"),
        (smtplib.SMTPConnectError(554, "text"), "554 text"),
        (smtplib.SMTPDataError(554, b"bytes \xff"), "554 bytes \\xff"),
        (RuntimeError("of a backend\n"), "RuntimeError: of a backend"),
        (
            smtplib.SMTPNotSupportedError("STARTTLS extension not supported by server."),
            "the server offers no STARTTLS; submissions:// is for TLS from the first byte, "
            "smtp:// for no TLS",
        ),
        (
            smtplib.SMTPNotSupportedError("SMTP AUTH extension not supported by server."),
            "the server offers no login, or none without TLS",
        ),
        (smtplib.SMTPNotSupportedError("SMTPUTF8 not supported"), "SMTPUTF8 not supported"),
        (TimeoutError("timed out"), "no answer in time"),
        (OSError(113, "No route to host"), "No route to host"),
        (OSError(), "OSError"),
        (smtplib.SMTPServerDisconnected("Connection lost: timed out"), "no answer in time"),
        (smtplib.SMTPDataError(554, b"\x1b[2J\x07 clear"), r"554 \x1b[2J\x07 clear"),
    ],
)
def test_reason_is_one_line(failure, expected):
    assert explain(failure) == expected


def test_refusals_are_one_line():
    replies = {"a@x.net": (550, b"\x1b[2J no\n"), "b@x.net": (550, b"\x1b[2J no\n")}
    assert explain_refusals(replies) == r"550 \x1b[2J no"


class TestSideBySide:
    def test_no_more_than_a_limit_at_the_same_time(self):
        together = threading.Barrier(MAX_THREADS)
        lock = threading.Lock()
        running, most = 0, 0

        def ask(key):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            together.wait(60)
            with lock:
                running -= 1
            return key.upper()

        keys = [f"host{i}" for i in range(2 * MAX_THREADS)]
        answers = list(concurrently(ask, keys, as_they_finish=False))
        assert answers == [(key, key.upper()) for key in keys]
        assert most == MAX_THREADS

    def test_host_that_hangs_is_not_waited_for_if_nobody_cares_any_more(self):
        end = threading.Event()

        def ask(key):
            return key == "fast" or end.wait(60)

        answers: Any = concurrently(ask, ["slow", "fast"], as_they_finish=True)
        assert next(answers) == ("fast", True)
        answers.close()
        end.set()

    @pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
    def test_error_that_nobody_expects_is_raised(self, error):
        def ask(key):
            raise error

        with pytest.raises(error):
            list(concurrently(ask, ["a"], as_they_finish=False))
