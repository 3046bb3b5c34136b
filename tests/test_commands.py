"""sendtestemailhosts and checkemailhosts, against real servers."""

import queue
import re
import signal
import smtplib
import sys
import threading
from functools import partial
from io import StringIO
from typing import Any

import pytest
from conftest import Recorder, mailer, needs_mailers, start_worker
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoBackend
from django.core.management import CommandError, ManagementUtility, call_command
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from scripted import HANG, always
from test_options import token

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.host import FAILOVER_BACKEND, HOST_BACKEND
from email_hosts.management import concurrently

SECRETS = ("Kx7vQz9", "Wj4bYt2")
LOGIN = ":".join(SECRETS)
LOGIN_DSN = f"smtp://{LOGIN}@h"
CONSOLE = "django.core.mail.backends.console.EmailBackend"
SEND, TO = "sendtestemailhosts", "a@example.net"
NO_COMMAS = "Write spaces between keys, and no commas."


def run(*command, hosts, **options):
    """Return the line that a command fails with, or "", and those that it prints.

    There is no secret in them.
    """
    out, message = StringIO(), ""
    try:
        with override_settings(EMAIL_HOSTS=hosts):
            call_command(*command, stdout=out, **options)
    except CommandError as error:
        assert error.returncode == 1
        message = str(error)
    assert "\n" not in message
    assert not any(secret in message + out.getvalue() for secret in SECRETS)
    return message, out.getvalue().splitlines()


def check(hosts, *keys, **options):
    return run("checkemailhosts", *keys, hosts=hosts, **options)


def rows(lines):
    """Return the lines of a table, without times."""
    return [re.sub(" [0-9]+ ms", "", re.sub("  +", " | ", line)) for line in lines[1:]]


class Tenants(BaseEmailBackend):
    """A project's own backend."""

    def send_messages(self, email_messages):
        return connection_from_dsn("dummy:", schemes="dummy").send_messages(email_messages)


ERRORS = {
    "exit": SystemExit(),
    "odd": RuntimeError("\x1b[2J on\none line"),
    "text": smtplib.SMTPConnectError(554, "no bytes"),
}


class Odd(Recorder):
    """Takes no message, or raises something."""

    answer = 0
    failure: Any = None

    def __init__(self, error="", **options):
        super().__init__(**options)
        self.failure = ERRORS.get(error)


@pytest.fixture
def hosts(start_server, serve, tls, closed_port):
    """Hosts that work, and others."""
    here = "127.0.0.1"
    plain, silent = start_server(refused=[TO]), serve(always("banner", HANG))
    odd = "421 4.7.0  \x1b[2J\xff Try later"  # a server may send any character
    busy = serve(lambda *step: odd if "LO" in step[0] else None)
    return {
        "works": f"smtp://{here}:{plain.port}",
        "local": "console:",
        "closed": f"smtp://{here}:{closed_port}",
        "login": f"smtp://{LOGIN}@{here}:{start_server(login=('a', 'b')).port}",
        "tls": f"submissions://{here}:{plain.port}",
        "cert": f"submission://{LOGIN}@{here}:{start_server(context=tls).port}",
        "silent": f"submission://{here}:{silent.port}?timeout=0.2",
        "busy": f"smtp://{here}:{busy.port}",
        "scheme": f"smpt://{LOGIN}@h",
        # One that works is enough.
        "half": "roundrobin:scheme,closed,works?_default_from_email=\u202eX <x@example.com>",
        "good": "failover:works,local",
        "bad": "failover:closed,scheme",
        "itself": "failover:works,ring",
        "ring": "failover:itself",
        "none": f"backend://{__name__}.Odd",
        "empty": "",
        **{error: f"backend://{__name__}.Odd?error={error}" for error in ERRORS},
    }


# What checkemailhosts --connect says of them.
STATUSES = {
    "works": " | OK",
    "local": " | valid, but only SMTP hosts are tried",
    "closed": " | Connection refused",
    "login": " | 535 5.7.8 no such login: *****",
    "tls": "; submission:// is for STARTTLS",
    "cert": "; to trust an authority of your own, name its file in ssl_cafile",
    "silent": " | no answer in time; the server sent",
    "busy": r" | 421 4.7.0 \x1b[2J\xff Try later",
    "scheme": " | unknown scheme 'smpt'",
    "half": r" | - | - | \u202eX <x@example.com> | scheme: unknown scheme ",
    "good": "; local: valid, but only SMTP hosts are tried",
    "bad": " | closed: Connection refused; scheme: unknown scheme ",
    "itself": "itself -> ring -> itself",
}


class TestSend:
    """sendtestemailhosts HOST[,HOST...] EMAIL [EMAIL...]"""

    COMMAND = (SEND, "shop", TO, "b@x.net")

    def test_sends_through_the_host_whatever_is_wrong_with_another(self, start_server, capsys):
        server = start_server()
        dsn = f"smtp://127.0.0.1:{server.port}?_default_from_email=shop@example.com"
        with override_settings(EMAIL_HOSTS={"shop": dsn, "broken": "smpt://h"}):
            # As on the command line, where system checks come first.
            ManagementUtility(["manage.py", *self.COMMAND]).execute()
        told = f"Sent a test message through shop to {TO}, b@x.net.\n"
        assert capsys.readouterr().out == told
        (received,) = server.received
        assert received.sender == "shop@example.com"
        assert received.recipients == [TO, "b@x.net"]
        assert received.message["Subject"] == "Test message through shop"

    @pytest.mark.parametrize("key", ["shop", "all"])
    def test_says_where_a_host_redirects_to(self, key, start_server):
        server = start_server()
        redirect = "_redirect_to=QA <qa@example.com>&_allowed_recipients=x.net"
        shop = f"smtp://127.0.0.1:{server.port}?{redirect}"
        command, _, *recipients = self.COMMAND
        hosts = {"shop": shop, "all": "failover:shop"}
        _, (printed,) = run(command, key, *recipients, hosts=hosts)
        assert "to qa@example.com, b@x.net, because the host redirects" in printed

    def test_may_send_through_a_backend_that_sends_through_a_dsn(self):
        _, (printed, *_) = run(*self.COMMAND, hosts={"shop": f"backend://{__name__}.Tenants"})
        assert "Sent a test message through shop to a@example.net" in printed

    def test_says_that_nobody_gets_it(self):
        _, (_, *told) = run(*self.COMMAND, hosts={"shop": "dummy:"})
        assert told == ["shop is a dummy host, so nobody gets it."]

    @pytest.mark.parametrize(
        ("key", "recipients", "told"),
        [
            ("x", [TO], "x: not sent: .*known hosts: works, local, .* and others$"),
            (LOGIN_DSN, [TO], r"\(a DSN\): not sent: the key of a host must not be a DSN"),
            ("empty", [TO], "empty: not sent: the host is empty"),
            ("itself", [TO], "itself: not sent: .* cycle: itself -> ring -> itself$"),
            ("works", [TO], "works: not sent: recipients refused: 550 5.1.1 no such mailbox$"),
            ("works", [TO, "b@x.net"], f"works: refused {TO}: 550 5.1.1 no such mailbox$"),
            ("local, works, none", [TO], "2 of 3 failed: works, none$"),
            ("none", [TO], "none: not sent, or in a queue: .* says that it took no message$"),
            ("text", [TO], "text: not sent: 554 no bytes$"),
            ("odd", [TO], r"odd: not sent: RuntimeError: \\x1b\[2J on one line$"),
            ("works", [LOGIN_DSN], r"Recipient '\(a DSN\)' must be one email address"),
        ],
    )
    def test_says_what_was_not_sent(self, key, recipients, told, hosts):
        message, _ = run(SEND, key, *recipients, hosts=hosts)
        assert re.match(told, message)

    def test_error_that_is_not_of_mail_is_raised(self, hosts):
        with pytest.raises(SystemExit):
            run(SEND, "exit", TO, hosts=hosts)


class TestCheck:
    """checkemailhosts [HOST...]"""

    GRANT = (
        "oauth2=client_credentials&oauth2_token_url=https://a.example/token"
        f"&oauth2_client_id=id&oauth2_client_secret={SECRETS[0]}"
    )
    DETAILS = (
        "_reply_to=Help <help@example.com>&_envelope_from=b@example.com"
        f"&_header-X-Shop={SECRETS[0]}&_header-X-Mark=1&_redirect_to=qa@example.com"
        "&_allowed_recipients=example.org, c@d.example"
    )
    HOSTS = {
        "ipv6": f"smtps://{SECRETS[1]}@[db8::25]?{GRANT}&_default_from_email=s@a.b",
        "own": f"submission://{SECRETS[1]}@h?oauth2=test_options.token",
        "disk": f"file:mail/\u202e?{DETAILS}",
    }
    SHOWN = """\
HOST  SCHEME      SERVER         SECURITY  USER                                SENDER  STATUS
ipv6  smtps       [db8::25]:465  TLS       ***** (oauth2: a.example)           s@a.b   valid
own   submission  h:587          STARTTLS  ***** (oauth2: test_options.token)  -       valid
disk  file        mail/\\u202e    -         -                                   -       valid
    reply to: Help <help@example.com>
    envelope from: b@example.com
    headers: X-Shop, X-Mark
    redirect to: qa@example.com
    allowed recipients: example.org, c@d.example
"""

    def test_shows_hosts_and_what_they_do_and_makes_no_folder(self, tmp_path, monkeypatch):
        """Not what headers say: that may be a token."""
        monkeypatch.chdir(tmp_path)
        assert check(self.HOSTS) == ("", self.SHOWN.splitlines())
        assert list(tmp_path.iterdir()) == []

    @needs_mailers
    def test_shows_no_more_of_a_callable(self):  # pragma: mailers-only
        source = partial(token, SECRETS[0])
        options = {"host": "h", "username": SECRETS[1], "use_tls": True, "oauth2": source}
        with override_settings(MAILERS={"a": mailer(**options)}):
            assert "  ***** (oauth2: a callable)  " in check({})[1][1]

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ("x", "There is no host 'x'. Known hosts: a."),
            ("a,x", f"There is no host 'a,x'. Known hosts: a. {NO_COMMAS}"),
            ("--show-password", "--show-password is only for --from-settings."),
            ("a --from-settings", "--from-settings takes neither hosts nor --connect."),
        ],
    )
    def test_says_why_there_is_nothing_to_show(self, arguments, told):
        assert check({"a": "smtp://h"}, *arguments.split()) == (told, [])
        assert check({}) == ("", ["EMAIL_HOSTS names no host."])

    def test_hosts_that_are_not_valid_are_shown_as_check_says_it(self):
        dsns = LOGIN_DSN.encode(), LOGIN_DSN, f"{LOGIN}@h", f"anymail+x:\n?key={SECRETS[0]}"
        hosts = dict.fromkeys((7, *dsns, "é\n\x1b[2J"), "smpt://h")
        pasted = {"token": f"submission://me@h?oauth2=ya29.{SECRETS[0]}"}
        message, (_, *lines) = check(hosts | pasted)
        shown = ["7", *["(a DSN)"] * 4, r"é\n\x1b[2J", "token"]
        assert message == f"7 of 7 failed: {', '.join(shown)}"
        reasons = ["string, not int", "string, not bytes", *["not be a DSN"] * 3, "'smpt'"]
        reasons.append("(oauth2: *****)")
        assert all(reason in line for reason, line in zip(reasons, lines, strict=True))


# Ctrl-C is ignored where the tests run in the background.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from django.core.management import execute_from_command_line
execute_from_command_line(["", "checkemailhosts", "--connect"])
"""


class TestConnect:
    """checkemailhosts --connect"""

    def test_says_whether_each_host_works(self, hosts):
        assert rows(check(hosts, "local", "works", connect=True)[1])[1].endswith(" | OK")
        message, lines = check(hosts, connect=True)
        failed = "closed, login, tls, cert, silent, busy, scheme, bad, itself, ring"
        assert message == f"10 of 19 failed: {failed}"
        told = {line.partition(" ")[0]: line for line in rows(lines)}
        assert all(status in told[key] for key, status in STATUSES.items())

    @needs_mailers
    def test_tries_mailers_with_our_backends_too(self, start_server):  # pragma: mailers-only
        server = {"host": "127.0.0.1", "port": start_server().port}
        mailers = {
            "default": {"BACKEND": "email_hosts.backends.RoutingBackend"},
            "hides": {"OPTIONS": server},
            "m": {"OPTIONS": server},
            "shop": mailer(**server, redirect_to="qa@example.com"),
            "odd": mailer(host=5),
            "all": {"BACKEND": FAILOVER_BACKEND, "OPTIONS": {"hosts": ["shop"]}},
            "own": {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": CONSOLE}},
        }
        hosts = {"hides": "smtp://h", "some": "failover:m"}
        with override_settings(MAILERS=mailers):
            message, lines = check(hosts, connect=True)
        assert message == "1 of 6 failed: odd"
        assert rows(lines) == [
            'hides | smtp | h:25 | none | - | - | is not used: MAILERS["hides"] comes first.',
            "some | failover | m | - | - | - | m: not tried, because it is only in MAILERS",
            f"shop | MAILERS | 127.0.0.1:{server['port']} | none | - | - | OK",
            " | redirect to: qa@example.com",
            "odd | - | - | - | - | - | option 'host' must be text, not int",
            "all | MAILERS | shop | - | - | - | shop: OK",
            "own | MAILERS | - | - | - | - | valid, but only SMTP hosts are tried",
        ]

    def test_is_made_side_by_side_up_to_a_limit(self, serve, monkeypatch):
        """The server greets when three are connected."""
        monkeypatch.setattr(concurrently, "MAX_THREADS", 3)
        together, numbers = threading.Barrier(3), []

        def script(step, argument):
            if step == "banner":
                numbers.append(server.connections - server.commands.count("QUIT"))
                together.wait(60)

        server = serve(script)
        hosts = dict.fromkeys("abcdef", f"smtp://127.0.0.1:{server.port}")
        assert check(hosts, connect=True)[0] == ""
        assert max(numbers) == 3
        server.wait_for_clients_to_go()
        # Both sides have said hello, and nothing is sent.
        assert {command[:4] for command in server.commands} == {"ehlo", "QUIT"}
        # So does the other command. Each host is told of its own message alone.
        told = [f"Sent a test message through {key} to {TO}." for key in "abc"]
        assert run(SEND, "a,b,c", TO, hosts=hosts) == ("", told)

    @pytest.mark.parametrize(
        "command", ["checkemailhosts --connect silent closed", f"{SEND} silent,closed {TO}"]
    )
    @pytest.mark.parametrize("is_terminal", [True, False])
    def test_is_shown_on_a_terminal_as_soon_as_it_is_done(self, command, is_terminal, hosts):
        out: Any = StringIO()
        out.isatty = lambda: is_terminal
        with override_settings(EMAIL_HOSTS=hosts), pytest.raises(CommandError, match="2 of 2"):
            call_command(*command.split(), stdout=out, no_color=True)
        shown = out.getvalue().replace("\r", "\n")
        order = ["closed", "silent"] if is_terminal else ["silent", "closed"]
        assert re.findall("^(closed|silent)", shown, re.MULTILINE) == order
        is_counted = is_terminal and "--connect" in command
        assert shown.count("1 pending \n") == is_counted

    def test_ends_with_ctrl_c_whatever_a_host_does(self, serve, tmp_path):
        processes: queue.Queue[Any] = queue.Queue()

        def press_ctrl_c(step, argument):
            processes.get().send_signal(signal.SIGINT)
            return HANG

        server = serve(press_ctrl_c)
        command = [sys.executable, "-c", INTERRUPTIBLE]
        with start_worker(server, tmp_path, command) as process:
            processes.put(process)
            assert process.wait(timeout=30) == 130  # the timeout of the host is 60
            printed = process.stdout.read()
        assert "Interrupted. 1 pending." in printed
        assert "Traceback" not in printed


# Without control characters, which neither a DSN nor SMTP can have.
PRINTABLE = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)

WITH_LOGIN = {"EMAIL_HOST_USER": SECRETS[0], "EMAIL_HOST_PASSWORD": SECRETS[1]}
FILES = {"EMAIL_SSL_CERTFILE": "/etc/a b.pem", "EMAIL_SSL_KEYFILE": "/etc/k&.pem"}
BOTH = {"EMAIL_USE_SSL": True, "EMAIL_USE_TLS": True}


@pytest.mark.filterwarnings(
    "ignore:The EMAIL_[A-Z_]+ setting is deprecated",
    "ignore:Directly creating EmailBackend instances is deprecated",
)
class TestFromSettings:
    """checkemailhosts --from-settings [--show-password]"""

    def shown(self, *options, **settings):
        with override_settings(**settings):
            message, lines = check({}, "--from-settings", *options)
        return message or lines[0]

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"EMAIL_HOST": "fe80::1%eth0", "EMAIL_PORT": 25}, "smtp://[fe80::1%25eth0]"),
            ({"EMAIL_HOST": "h.", "EMAIL_PORT": "465", "EMAIL_USE_SSL": 1}, "submissions://h"),
            (FILES, "smtp://localhost?ssl_certfile=/etc/a%20b.pem&ssl_keyfile=/etc/k%26.pem"),
            (WITH_LOGIN, "smtp://*****:*****@localhost"),
            ({"EMAIL_HOST_USER": SECRETS[0]}, "smtp://localhost"),
            # No DSN stands for these.
            (BOTH, "EMAIL_USE_SSL and EMAIL_USE_TLS are mutually exclusive"),
            ({"EMAIL_HOST": None}, "EMAIL_HOST must be a host name"),
            ({"EMAIL_PORT": None}, "EMAIL_PORT must be a whole number from 1 to 65535"),
            ({**WITH_LOGIN, "EMAIL_HOST_USER": "a\nb"}, "the user name has a control"),
            pytest.param({"MAILERS": {}}, "with MAILERS, Django", marks=needs_mailers),
        ],
    )
    def test_shows_the_dsn_or_why_there_is_none(self, settings, expected):
        shown = self.shown(**settings)
        assert shown.startswith(expected) if " " in expected else shown == expected

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
        with override_settings(EMAIL_HOSTS={"one": self.shown("--show-password", **settings)}):
            ours: Any = get_connection("one")
        with override_settings(**settings):
            django = DjangoBackend()
        if not (django.username and django.password):
            django.username = django.password = ""  # it does not log in then
        for name in ("host", "port", "username", "password", "use_tls", "use_ssl"):
            assert getattr(ours, name) == getattr(django, name)
        assert ours.timeout == (django.timeout or 60)
        assert ours.ssl_certfile == (django.ssl_certfile or "")
