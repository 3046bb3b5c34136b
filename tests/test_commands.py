"""sendtestemailhosts and checkemailhosts, against real servers."""

import queue
import re
import signal
import smtplib
import ssl
import sys
import threading
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
from scripted import HANG, always

from email_hosts.backends import get_connection
from email_hosts.host import FAILOVER_BACKEND, HOST_BACKEND, SMTP_BACKEND
from email_hosts.management import concurrently

SECRETS = ("Kx7vQz9", "Wj4bYt2")
LOGIN = ":".join(SECRETS)
CONSOLE = "django.core.mail.backends.console.EmailBackend"
TO = "a@example.net"


class Terminal(StringIO):
    """Somebody watches."""

    def isatty(self):
        return True


def run(*command, hosts, **options):
    """Return what a command prints, which has no secrets in it."""
    out = StringIO()
    with override_settings(EMAIL_HOSTS=hosts):
        call_command(*command, stdout=out, **options)
    assert not any(secret in out.getvalue() for secret in SECRETS)
    return out.getvalue()


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


@pytest.fixture
def ports(start_server, serve, tls, closed_port):
    """The ports of servers with which a host does not work."""
    return {
        "closed": closed_port,
        "plain": start_server().port,
        "tls": start_server(context=tls).port,
        "login": start_server(login=("somebody", "else")).port,
        "bare": serve().port,
        "silent": serve(always("banner", HANG)).port,
        "busy": serve(lambda *step: "421 4.7.0 Try later" if "LO" in step[0] else None).port,
    }


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("smtp://127.0.0.1:{closed}", "Connection refused"),
        ("smtp://{user}@127.0.0.1:{login}", "535 5.7.8 no such login: *****"),
        ("submissions://127.0.0.1:{plain}", "submission:// is for STARTTLS"),
        ("submission://127.0.0.1:{plain}", "by server. submissions:// is for TLS"),
        ("smtp://{user}@127.0.0.1:{bare}", "no login, or none without TLS"),
        ("submission://{user}@127.0.0.1:{tls}", "certificate not trusted: "),
        ("submission://127.0.0.1:{silent}?timeout=0.2", "no answer in time; the server sent"),
        ("smtp://127.0.0.1:{busy}", "421 4.7.0 Try later"),
        ("submission://127.0.0.1:{plain}?ssl_cafile=/no/such", "cannot load ssl_cafile: "),
        ("smpt://{user}@h", "unknown scheme 'smpt'"),
        ("", "empty"),
    ],
)
def test_both_commands_say_why_a_host_does_not_work(dsn, reason, ports):
    hosts = {"shop": dsn.format(user=LOGIN, **ports), "local": "console:"}
    message, _ = failure("sendtestemailhosts", "shop", TO, hosts=hosts)
    assert message.startswith("shop: not sent: ")
    assert reason in message
    if dsn:  # an empty host is no failure of a check
        _, (_, shop, local) = failure("checkemailhosts", hosts=hosts, connect=True)
        assert reason in shop
        assert local.endswith("  OK, no server to connect to")


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("shop,club", "Known hosts: shop, club. Write spaces between keys, and no commas."),
        ("clab", "There is no host 'clab'. Known hosts: shop, club."),
        ("--show-password", "--show-password is only for --from-settings."),
    ],
)
def test_argument_that_does_not_fit_is_refused(argument, reason):
    hosts = {"shop": "smtp://h", "club": "smtp://h"}
    message, shown = failure("checkemailhosts", argument, hosts=hosts)
    assert message.endswith(reason)
    assert shown == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ssl.SSLError(1, "[SSL: BAD_RECORD]"), "[SSL: BAD_RECORD]"),
        (smtplib.SMTPServerDisconnected("Connection\nclosed"), "Connection closed"),
        (smtplib.SMTPDataError(554, b"\x1b[2J\x07 \xff"), r"554 \x1b[2J\x07 \xff"),
        (smtplib.SMTPNotSupportedError("SMTPUTF8 not supported"), "SMTPUTF8 not supported"),
        (TimeoutError("timed out"), "no answer in time"),
        (smtplib.SMTPConnectError(554, "text"), "554 text"),
        (OSError(), "OSError"),
        (RuntimeError("of a backend\n"), "RuntimeError: of a backend"),
        (
            smtplib.SMTPRecipientsRefused(dict.fromkeys("ab", (550, b"\x1b[2J no\n"))),
            r"recipients refused: 550 \x1b[2J no",
        ),
    ],
)
def test_reason_is_one_line_for_a_terminal(error, reason, monkeypatch):
    monkeypatch.setattr(DummyBackend, "send_messages", mock.Mock(side_effect=error))
    message, _ = failure("sendtestemailhosts", "shop", TO, hosts={"shop": "dummy:"})
    assert message.startswith("shop: not sent: ")
    assert message.endswith(reason)


class TakesNone(DummyBackend):
    def send_messages(self, email_messages):
        return 0


class TestSend:
    """sendtestemailhosts HOST[,HOST...] EMAIL [EMAIL...]"""

    COMMAND = ("sendtestemailhosts", "shop", TO, "b@x.net")

    def test_sends_through_the_host(self, start_server):
        server = start_server()
        dsn = f"smtp://127.0.0.1:{server.port}?_default_from_email=shop@example.com"
        assert run(*self.COMMAND, hosts={"shop": dsn}) == (
            f"Sent a test message through shop to {TO}, b@x.net.\n"
        )
        (received,) = server.received
        assert received.sender == "shop@example.com"
        assert received.recipients == [TO, "b@x.net"]
        assert received.message["Subject"] == "Test message through shop"

    def test_says_where_a_host_redirects_to(self, start_server):
        server = start_server()
        hosts = {
            "shop": f"smtp://127.0.0.1:{server.port}?_redirect_to=QA <qa@example.com>"
            "&_allowed_recipients=x.net"
        }
        printed = run(*self.COMMAND, hosts=hosts)
        assert "to qa@example.com, b@x.net, because the host redirects" in printed
        assert server.received[0].recipients == ["qa@example.com", "b@x.net"]
        server.refused.add("qa@example.com")
        _, lines = failure(*self.COMMAND, hosts=hosts)
        assert lines == ["Sent a test message through shop to b@x.net."]

    def test_delivers_to_the_outbox_in_tests(self, mailoutbox):
        call_command("sendtestemailhosts", "shop", TO, stdout=StringIO())
        assert [sent.sent_using for sent in mailoutbox] == ["shop"]

    @pytest.mark.parametrize(
        ("key", "recipients", "told"),
        [
            ("x", [TO], "x: not sent: .*known hosts: shop, club, none$"),
            (
                f"smtp://{LOGIN}@h",
                [TO],
                r"\(a DSN\): not sent: the key of a host must not be a DSN",
            ),
            ("shop", [TO], "shop: not sent: recipients refused: 550 5.1.1 no such mailbox$"),
            ("shop", [TO, "b@x.net"], f"shop: refused {TO}: 550 5.1.1 no such mailbox$"),
            ("club, shop, none", [TO], "2 of 3 failed: shop, none$"),
            ("none", [TO], "none: not sent: the backend took no message"),
            ("shop", ["b@x.net", "me"], "Recipient 'me' must be one email address"),
            ("shop", ["a@b\nc@d"], r"Recipient 'a@b\\nc@d' must be one email address"),
            (
                "shop",
                [f"smtp://{LOGIN}@h"],
                r"Recipient '\(a DSN\)' must be one email address",
            ),
        ],
    )
    def test_says_what_was_not_sent(self, key, recipients, told, start_server):
        hosts = {
            "shop": f"smtp://127.0.0.1:{start_server(refused=[TO]).port}",
            "club": "dummy:",
            "none": f"backend://{__name__}.TakesNone",
        }
        message, _ = failure("sendtestemailhosts", key, *recipients, hosts=hosts)
        assert re.match(told, message)

    def test_error_that_is_not_of_mail_is_raised(self, monkeypatch):
        monkeypatch.setattr(DummyBackend, "send_messages", mock.Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            run("sendtestemailhosts", "shop", TO, hosts={"shop": "dummy:"})

    def test_mistake_in_another_host_does_not_matter(self, tmp_path):
        hosts = {"folder": f"file:{tmp_path}", "broken": "smpt://h"}
        command = ["manage.py", "sendtestemailhosts", "folder", TO]
        with override_settings(EMAIL_HOSTS=hosts):
            # As on the command line, where system checks come first.
            ManagementUtility(command).execute()
        assert len(list(tmp_path.iterdir())) == 1


def token(username, *, renew):  # pragma: no cover
    """Nobody asks for it here."""


def mailer(**options):  # pragma: mailers-only
    return {"BACKEND": SMTP_BACKEND, "OPTIONS": options}


class TestCheck:
    """checkemailhosts [HOST...]"""

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
empty       -           -                     -         -      -              is empty"""

    def test_shows_each_host_and_makes_no_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("checkemailhosts", hosts=self.HOSTS).startswith(self.TABLE)
        assert list(tmp_path.iterdir()) == []

    def test_shows_below_a_host_what_it_does_to_messages(self):
        """Not what headers say: that may be a token."""
        dsn = (
            "console://?_reply_to=Help <help@example.com>&_envelope_from=b@example.com"
            "&_header-X-Shop=Kx7vQz9&_header-X-Mark=1&_redirect_to=qa@example.com"
            "&_allowed_recipients=example.org, c@d.example"
        )
        lines = run("checkemailhosts", hosts={"a": dsn}).splitlines()
        assert lines[2:] == [
            "    reply to: Help <help@example.com>",
            "    envelope from: b@example.com",
            "    headers: X-Shop, X-Mark",
            "    redirect to: qa@example.com",
            "    allowed recipients: example.org, c@d.example",
        ]

    def test_shows_where_tokens_come_from(self):
        grant = (
            "oauth2=client_credentials&oauth2_token_url=https://login.example.com/token"
            f"&oauth2_client_id=id&oauth2_client_secret={SECRETS[0]}"
        )
        hosts = {
            "a": f"submission://{SECRETS[1]}@h?{grant}",
            "b": f"submission://{SECRETS[1]}@h?oauth2={__name__}.token",
        }
        _, a, b = run("checkemailhosts", hosts=hosts).splitlines()
        assert "  ***** (oauth2: login.example.com)  " in a
        assert f"  ***** (oauth2: {__name__}.token)  " in b

    @needs_mailers
    @pytest.mark.parametrize("source", [token, partial(token, SECRETS[0])])
    def test_shows_no_more_of_a_callable(self, source):  # pragma: mailers-only
        options = {"host": "h", "username": SECRETS[1], "use_tls": True, "oauth2": source}
        with override_settings(MAILERS={"a": mailer(**options)}):
            assert "  ***** (oauth2: a callable)  " in run("checkemailhosts", hosts={})

    def test_shows_the_hosts_asked_for_or_lists_the_known(self):
        lines = run("checkemailhosts", "local", "debug", hosts=self.HOSTS).splitlines()
        assert [line.split()[0] for line in lines] == ["HOST", "local", "debug"]
        message, _ = failure("checkemailhosts", "local", "x", hosts=self.HOSTS)
        assert re.search("'x'.* shop, newsletter, local, folder, debug, empty", message)

    def test_no_hosts_are_no_error(self):
        assert run("checkemailhosts", hosts={}) == "EMAIL_HOSTS names no host.\n"

    @pytest.mark.parametrize(
        ("key", "dsn", "name", "status"),
        [
            ("shop", f"smtp://{LOGIN}@h?timout=5", "shop", "did you mean 'timeout'"),
            ("shop", "backend://a.B?port=465", "shop", "cannot be imported"),
            (7, "smtp://h", "7", "must be a string, not int"),
            (f"smtp://{LOGIN}@h".encode(), "smtp://h", "(a DSN)", "not bytes"),
            (f"smtp://{LOGIN}@h", "smtp://h", "(a DSN)", "connection_from_dsn()"),
            ("a\n\x1b[2J", "smpt://h", r"a\n\x1b[2J", "did you mean 'smtp'"),
        ],
    )
    def test_host_that_is_not_valid_is_shown_as_check_says_it(self, key, dsn, name, status):
        hosts = {key: dsn, "local": "smtp://localhost"}
        message, (_, line, _) = failure("checkemailhosts", hosts=hosts)
        assert message == f"1 of 2 failed: {name}"
        assert line.startswith(f"{name} ")
        assert status in line

    def test_warning_is_no_failure(self):
        printed = run("checkemailhosts", hosts={"a": "submission://h:465"})
        assert "  has port 465" in printed

    def test_has_colours_that_can_be_switched_off(self):
        hosts = {"good": "smtp://h", "none": "", "bad": "smpt://h"}
        _, coloured = failure("checkemailhosts", hosts=hosts, force_color=True)
        _, plain = failure("checkemailhosts", hosts=hosts, no_color=True)
        style = color_style(force_color=True)
        styles = (style.MIGRATE_HEADING, style.SUCCESS, style.WARNING, style.ERROR)
        for line, colour in zip(coloured, styles, strict=True):
            assert colour("|").partition("|")[0] in line
        assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain


# Ctrl-C is ignored where the tests run in the background.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from django.core.management import execute_from_command_line
execute_from_command_line(["", "checkemailhosts", "--connect"])
"""


class TestConnect:
    """checkemailhosts --connect"""

    def test_goes_through_tls_and_login_and_sends_nothing(self, start_server, tls, cafile):
        server = start_server(context=tls, login=SECRETS)
        dsn = f"submission://{LOGIN}@127.0.0.1:{server.port}?ssl_cafile={cafile}"
        printed = run("checkemailhosts", hosts={"a": dsn}, connect=True)
        assert re.search("  OK [0-9]+ ms\n$", printed)
        assert server.received == []

    def test_includes_the_greetings_of_both_sides(self, serve):
        server = serve()
        hosts = {"a": f"smtp://127.0.0.1:{server.port}"}
        assert "  OK" in run("checkemailhosts", hosts=hosts, connect=True)
        server.wait_for_clients_to_go()
        assert [command[:4] for command in server.commands] == ["ehlo", "QUIT"]

    def test_is_none_to_hosts_that_tests_capture(self):
        out = StringIO()
        call_command("checkemailhosts", connect=True, stdout=out)
        assert len(re.findall("  OK [0-9]+ ms", out.getvalue())) == 2

    def test_tries_the_members_of_several_hosts(self, start_server, closed_port):
        """One that works is enough."""
        hosts = {
            "a": f"smtp://127.0.0.1:{start_server().port}",
            "b": f"smtp://127.0.0.1:{closed_port}",
            "c": "smpt://h",
            "half": "roundrobin:c,b,a?_default_from_email=x@example.com",
            "good": "failover:a",
            "bad": "failover:b,c",
            "worse": "failover:bad,b",
            "itself": "failover:a,itself",
        }
        message, lines = failure("checkemailhosts", hosts=hosts, connect=True)
        assert message == "5 of 8 failed: b, c, bad, worse, itself"
        half, good, bad, worse, itself = lines[4:]
        assert " roundrobin  c, b, a " in half
        assert re.search("  c: .*'smtp'.*; b: Connection refused; a: OK [0-9]+ ms$", half)
        assert re.search("  a: OK [0-9]+ ms$", good)
        assert "  b: Connection refused; c: unknown scheme " in bad
        assert "  bad: b: Connection refused; c: unknown scheme " in worse
        assert "itself -> itself" in itself
        assert "a: OK" in run("checkemailhosts", "half", hosts=hosts, connect=True)

    @needs_mailers
    def test_tries_mailers_with_our_backends_too(self, start_server):  # pragma: mailers-only
        server = {"host": "127.0.0.1", "port": start_server().port}
        added = {"default_from_email": "a@example.com", "redirect_to": "qa@example.com"}
        mailers = {
            "default": {"BACKEND": "email_hosts.backends.RoutingBackend"},
            "django": {"OPTIONS": server},
            "shop": mailer(**server, **added),
            "odd": mailer(host=5),
            "all": {"BACKEND": FAILOVER_BACKEND, "OPTIONS": {"hosts": ["shop"]}},
            "own": {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": CONSOLE, **added}},
        }
        with override_settings(MAILERS=mailers):
            message, lines = failure("checkemailhosts", hosts={})
            tried = run("checkemailhosts", "all", hosts={}, connect=True)
        assert message == "1 of 4 failed: odd"
        assert [line.split()[:4] for line in lines[1:]] == [
            ["shop", "MAILERS", f"127.0.0.1:{server['port']}", "none"],
            ["redirect", "to:", "qa@example.com"],
            ["odd", "-", "-", "-"],
            ["all", "MAILERS", "shop", "-"],
            ["own", "MAILERS", "-", "-"],
            ["redirect", "to:", "qa@example.com"],
        ]
        assert re.search("  shop: OK [0-9]+ ms\n$", tried)

    @needs_mailers
    @override_settings(MAILERS={"default": {"OPTIONS": {"host": "mailer"}}, "m": {}})
    def test_is_none_to_other_mailers(self):  # pragma: mailers-only
        hosts = {"default": "smtp://h", "all": "failover:m"}
        _, hidden, several = run("checkemailhosts", hosts=hosts, connect=True).splitlines()
        assert 'MAILERS["default"]' in hidden
        assert several.endswith("m: not tried, because it is only in MAILERS")

    def test_is_made_side_by_side_up_to_a_limit(self, serve, monkeypatch):
        monkeypatch.setattr(concurrently, "MAX_THREADS", 3)
        together, lock = threading.Barrier(3), threading.Lock()
        connected, counts = set(), []

        def script(step, argument):
            if step == "banner":
                with lock:
                    connected.add(threading.get_ident())
                    counts.append(len(connected))
                together.wait(60)  # until so many have been connected to
            elif step == "QUIT":
                with lock:
                    connected.remove(threading.get_ident())

        port = serve(script).port
        hosts = {f"host{i}": f"smtp://127.0.0.1:{port}" for i in range(6)}
        assert run("checkemailhosts", hosts=hosts, connect=True).count("OK") == 6
        assert max(counts) == 3

    @pytest.mark.parametrize(
        ("output", "order"), [(Terminal, ["fast", "slow"]), (StringIO, ["slow", "fast"])]
    )
    @pytest.mark.parametrize(
        "command", [["checkemailhosts", "--connect"], ["sendtestemailhosts", "slow,fast", TO]]
    )
    def test_is_shown_on_a_terminal_as_soon_as_it_is_done(
        self, command, output, order, serve, closed_port
    ):
        out = output()
        hosts = {
            "slow": f"smtp://127.0.0.1:{serve(always('banner', HANG)).port}?timeout=0.5",
            "fast": f"smtp://127.0.0.1:{closed_port}",
        }
        with override_settings(EMAIL_HOSTS=hosts), pytest.raises(CommandError, match="2 of 2"):
            call_command(*command, stdout=out, no_color=True)
        shown = out.getvalue()
        lines = re.findall("^(fast|slow)", shown.replace("\r", "\n"), re.MULTILINE)
        assert lines == order
        is_counted = output is Terminal and command[0] == "checkemailhosts"
        assert shown.count("1 pending \r") == is_counted

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
FILES = {"EMAIL_SSL_CERTFILE": "/etc/a b.pem", "EMAIL_SSL_KEYFILE": "/etc/k&.pem"}


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
            ({"EMAIL_PORT": "465", "EMAIL_USE_SSL": True}, "submissions://smtp.example.com"),
            ({"EMAIL_USE_TLS": True}, "submission://smtp.example.com:25"),
            ({"EMAIL_HOST": "::1", "EMAIL_PORT": 2525}, "smtp://[::1]:2525"),
            ({"EMAIL_HOST": "fe80::1%eth0"}, "smtp://[fe80::1%25eth0]"),
            ({"EMAIL_HOST": "localhost."}, "smtp://localhost"),
            (
                FILES,
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
        with override_settings(EMAIL_HOSTS={"one": self.shown("--show-password", **settings)}):
            ours: Any = get_connection("one")
        with override_settings(**{**SMTP_SETTINGS, **settings}):
            django = DjangoBackend()
        if not (django.username and django.password):
            django.username = django.password = ""  # it does not log in then
        for name in ("host", "port", "username", "password", "use_tls", "use_ssl"):
            assert getattr(ours, name) == getattr(django, name)
        assert ours.timeout == (django.timeout or 60)
        assert ours.ssl_certfile == (django.ssl_certfile or "")

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            (
                {"EMAIL_USE_SSL": True, "EMAIL_USE_TLS": True},
                "EMAIL_USE_SSL and EMAIL_USE_TLS",
            ),
            ({"EMAIL_HOST": ""}, "EMAIL_HOST"),
            ({"EMAIL_PORT": None}, "EMAIL_PORT"),
            ({"EMAIL_SSL_KEYFILE": "/k.pem"}, "'ssl_keyfile'.*'ssl_certfile'"),
            ({"EMAIL_HOST_USER": "a\nb", "EMAIL_HOST_PASSWORD": "p"}, "control character"),
        ],
    )
    def test_settings_that_no_dsn_stands_for_say_why(self, settings, named):
        with pytest.raises(CommandError, match=named) as caught:
            self.shown(**settings)
        assert not any(secret in str(caught.value) for secret in SECRETS)

    @needs_mailers
    def test_mailers_take_their_place(self):  # pragma: mailers-only
        with override_settings(MAILERS={}), pytest.raises(CommandError, match="MAILERS"):
            call_command("checkemailhosts", "--from-settings")
