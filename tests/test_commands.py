"""sendtestemailhosts and checkemailhosts, against real servers."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import ServerFactory, needs_mailers
from django.core.mail.backends.dummy import EmailBackend as DummyBackend
from django.core.management import CommandError, ManagementUtility, call_command
from django.core.management.color import color_style
from django.test import override_settings

from email_hosts.management.explain import explain, explain_refusals
from email_hosts.management.side_by_side import side_by_side

SECRETS = ("Kx7vQz9", "Wj4bYt2")


def run(command: str, *args: str, hosts: Any, **options: Any) -> str:
    """Return what a command prints with these hosts, without secrets."""
    out = StringIO()
    with override_settings(EMAIL_HOSTS=hosts):
        call_command(command, *args, stdout=out, **options)
    assert not any(secret in out.getvalue() for secret in SECRETS)
    return out.getvalue()


def failure(command: str, *args: str, hosts: Any, **options: Any) -> tuple[str, list[str]]:
    """Return the line that a command fails with and those before it, without secrets."""
    out = StringIO()
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(CommandError) as caught:
        call_command(command, *args, stdout=out, **options)
    assert caught.value.returncode == 1
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message + out.getvalue() for secret in SECRETS)
    return message, out.getvalue().splitlines()


def error(command: str, *args: str, hosts: Any, **options: Any) -> str:
    """Return the line that a command fails with, without secrets."""
    message, _ = failure(command, *args, hosts=hosts, **options)
    return message


def send_error(dsn: str, *recipients: str) -> str:
    """Return what a test message through this host fails with."""
    recipients = recipients or ("a@example.net",)
    return error("sendtestemailhosts", "shop", *recipients, hosts={"shop": dsn})


class Hosted(DummyBackend):
    """One whose options look like those of an SMTP host."""

    def __init__(self, host: str, alias: str = "") -> None:
        super().__init__()


class Terminal(StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


class TestSend:
    """sendtestemailhosts HOST[,HOST...] EMAIL [EMAIL...]"""

    def test_sends_through_the_host(self, start_server: ServerFactory) -> None:
        server = start_server()
        hosts = {
            "shop": f"smtp://127.0.0.1:{server.port}?_default_from_email=shop@example.com"
        }
        assert run("sendtestemailhosts", "shop", "a@example.net", "b@x.net", hosts=hosts) == (
            "Sent a test message through shop to a@example.net, b@x.net.\n"
        )
        (received,) = server.received
        assert received.sender == "shop@example.com"
        assert received.recipients == ["a@example.net", "b@x.net"]
        assert received.message["Subject"] == "Test message through shop"

    def test_delivers_to_the_outbox_in_tests(self, mailoutbox: list[Any]) -> None:
        call_command("sendtestemailhosts", "shop", "a@example.net", stdout=StringIO())
        assert [sent.sent_using for sent in mailoutbox] == ["shop"]

    @pytest.mark.parametrize("known", ["shop, club", "none"])
    def test_unknown_host_lists_the_known(self, known: str) -> None:
        hosts = {key: "smtp://h" for key in known.split(", ") if key != "none"}
        assert error("sendtestemailhosts", "x", "a@example.net", hosts=hosts) == (
            f"There is no host 'x'. Known hosts: {known}."
        )

    @pytest.mark.parametrize(
        ("hosts", "reason"),
        [
            ({"shop": "smpt://u:Kx7vQz9@h"}, "EMAIL_HOSTS[\"shop\"]: unknown scheme 'smpt'"),
            (["smtp://h"], "EMAIL_HOSTS is a dict of DSN strings, not list"),
        ],
    )
    def test_invalid_host_says_why(self, hosts: Any, reason: str) -> None:
        told = error("sendtestemailhosts", "shop", "a@x.net", hosts=hosts)
        assert told.startswith(reason)

    def test_file_that_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        assert "cannot load ssl_cafile" in send_error(f"smtps://h?ssl_cafile={tmp_path}/x")

    def test_unreachable_host_says_why(self, closed_port: int) -> None:
        assert send_error(f"smtp://127.0.0.1:{closed_port}") == (
            "shop: not sent: Connection refused"
        )

    def test_refused_login_says_why_without_the_user(
        self, start_server: ServerFactory
    ) -> None:
        server = start_server(login=("somebody", "else"))
        assert send_error(f"smtp://Kx7vQz9:Wj4bYt2@127.0.0.1:{server.port}") == (
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
    def test_refused_recipients_say_why(
        self, refused: list[str], expected: str, start_server: ServerFactory
    ) -> None:
        dsn = f"smtp://127.0.0.1:{start_server(refused=refused).port}"
        assert send_error(dsn, "a@x.net", "b@x.net") == f"shop: {expected}"

    @pytest.mark.parametrize("dsn", ["smtp://Kx7vQz9:Wj4bYt2@h", "Kx7vQz9:Wj4bYt2@h"])
    def test_dsn_in_the_place_of_a_host_is_not_repeated(self, dsn: str) -> None:
        assert error("sendtestemailhosts", dsn, "a@example.net", hosts={}) == (
            "There is no such host. Known hosts: none."
        )

    def test_tls_on_a_port_without_it_says_so(self, start_server: ServerFactory) -> None:
        dsn = f"submissions://127.0.0.1:{start_server().port}"
        assert "submission:// starts it later" in send_error(dsn)

    def test_bad_address_says_so(self, start_server: ServerFactory) -> None:
        dsn = f"smtp://127.0.0.1:{start_server().port}"
        assert "nvalid address" in send_error(dsn, "a@b\nc@d")

    def test_host_that_takes_nothing_is_no_success(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(DummyBackend, "send_messages", lambda *args: 0)
        assert error("sendtestemailhosts", "d", "a@x.net", hosts={"d": "dummy://"}) == (
            "d: not sent: the backend took no message"
        )

    def test_several_hosts_each_send_a_message(
        self, start_server: ServerFactory, closed_port: int
    ) -> None:
        server = start_server()
        hosts = {
            "up": f"smtp://127.0.0.1:{server.port}",
            "down": f"smtp://127.0.0.1:{closed_port}",
        }
        message, lines = failure("sendtestemailhosts", "down,up", "a@example.net", hosts=hosts)
        assert message == "1 of 2 failed: down"
        assert lines == [
            "down: not sent: Connection refused",
            "Sent a test message through up to a@example.net.",
        ]
        assert len(server.received) == 1

    def test_host_that_is_named_twice_is_asked_once(self, closed_port: int) -> None:
        hosts = {"shop": f"smtp://127.0.0.1:{closed_port}"}
        assert error("sendtestemailhosts", "shop, shop", "a@x.net", hosts=hosts) == (
            "shop: not sent: Connection refused"
        )

    def test_empty_host_is_told_from_one_that_is_not_there(self) -> None:
        assert error("sendtestemailhosts", "shop", "a@x.net", hosts={"shop": ""}) == (
            "Host 'shop' is empty: it is not configured."
        )

    def test_whatever_a_backend_raises_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: Any) -> None:
            raise RuntimeError("out of paper")

        monkeypatch.setattr(DummyBackend, "send_messages", fail)
        hosts = {"a": "dummy://", "b": "locmem://"}
        assert error("sendtestemailhosts", "a,b", "a@x.net", hosts=hosts) == (
            "1 of 2 failed: a"
        )

    def test_key_with_a_comma_is_one_host(self) -> None:
        assert "through a,b to" in run(
            "sendtestemailhosts", "a,b", "a@example.net", hosts={"a,b": "locmem://"}
        )

    def test_mistake_in_another_host_does_not_matter(self, tmp_path: Path) -> None:
        hosts = {"folder": f"file:{tmp_path}", "broken": "smpt://h"}
        with override_settings(EMAIL_HOSTS=hosts):
            # As on the command line, where system checks come first.
            ManagementUtility(
                ["manage.py", "sendtestemailhosts", "folder", "a@x.net"]
            ).execute()
        assert len(list(tmp_path.iterdir())) == 1


class TestCheck:
    """checkemailhosts [--connect] [HOST...]"""

    HOSTS = {
        "shop": "submission://Kx7vQz9:Wj4bYt2@smtp.example.com?_default_from_email=s@example.com",
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
empty       -           -                     -         -      -              empty: not configured
"""  # noqa: E501

    @pytest.fixture(autouse=True)
    def in_a_folder_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_shows_each_host(self) -> None:
        assert run("checkemailhosts", hosts=self.HOSTS) == self.TABLE

    def test_shows_the_hosts_asked_for(self) -> None:
        assert (
            run("checkemailhosts", "local", "debug", hosts=self.HOSTS).split()
            == (
                "HOST SCHEME SERVER SECURITY USER SENDER STATUS "
                "local smtp localhost:25 none - - valid debug console - - - - valid"
            ).split()
        )

    def test_unknown_host_lists_the_known(self) -> None:
        assert error("checkemailhosts", "local", "x", hosts=self.HOSTS) == (
            "There is no host 'x'. Known hosts: shop, newsletter, local, folder, debug, empty."
        )

    def test_no_hosts_are_no_error(self) -> None:
        assert run("checkemailhosts", hosts={}) == "EMAIL_HOSTS names no host.\n"

    def test_key_that_is_no_string_is_shown_too(self) -> None:
        assert run("checkemailhosts", hosts={7: "smtp://h"}).splitlines()[1].startswith("7 ")

    def test_empty_host_is_a_failure_where_unknown_keys_are(self) -> None:
        with override_settings(EMAIL_HOSTS_STRICT=True):
            assert error("checkemailhosts", hosts={"a": ""}) == "1 of 1 failed: a"

    @needs_mailers
    def test_mailer_that_hides_a_host_is_told(self) -> None:  # pragma: mailers-only
        smtp = {"OPTIONS": {"host": "mailer"}}
        with override_settings(MAILERS={"default": smtp}):
            shown = run("checkemailhosts", hosts={"default": "smtp://h"}, connect=True)
        assert 'not used: MAILERS["default"] comes first' in shown

    def test_members_of_several_hosts_are_shown_and_tried(
        self, start_server: ServerFactory, closed_port: int
    ) -> None:
        hosts = {
            "a": f"smtp://127.0.0.1:{start_server().port}",
            "b": f"smtp://127.0.0.1:{closed_port}",
            "c": "smpt://h",
            "good": "failover:a",
            "bad": "roundrobin:a,b,bad,c,nobody?_default_from_email=x@example.com",
            "provider": f"backend://{__name__}.Hosted?host=example.com",
        }
        message, lines = failure("checkemailhosts", hosts=hosts, connect=True)
        assert message == "3 of 6 failed: b, c, bad"
        _, _, _, _, good, bad, provider = lines
        assert " failover " in good
        assert "  a: OK " in good
        assert " a, b, bad, c, nobody " in bad
        for status in ("a: OK ", "b: Connection refused", "bad: is on the way to itself"):
            assert status in bad
        # What is wrong with c, its own line says.
        assert bad.endswith("c: not valid; nobody: there is no such host")
        assert provider.endswith("OK, no server to connect to")

    @needs_mailers
    def test_member_that_is_a_mailer_alone_is_told(self) -> None:  # pragma: mailers-only
        smtp = {"OPTIONS": {"host": "mailer"}}
        with override_settings(MAILERS={"default": smtp, "m": smtp}):
            shown = run("checkemailhosts", hosts={"all": "failover:m"}, connect=True)
        assert "m: not tried, it is of MAILERS alone" in shown

    def test_columns_are_aligned_in_any_script(self) -> None:
        hosts = {"店": "console:?_default_from_email=注文 <shop@example.com>", "é": "dummy:"}
        wide, narrow = run("checkemailhosts", hosts=hosts).splitlines()[1:]
        # Each of the three takes two columns, and the second é is two characters.
        assert wide.index("  valid") + 3 == narrow.index("  valid") - 1

    def test_folder_is_not_made_by_looking(self, tmp_path: Path) -> None:
        run("checkemailhosts", hosts={"folder": f"file:{tmp_path}/out"})
        assert list(tmp_path.iterdir()) == []

    def test_no_dict_is_an_error(self) -> None:
        assert "not list" in error("checkemailhosts", hosts=["smtp://h"])

    def test_invalid_host_is_shown_with_the_reason(self) -> None:
        hosts = {"shop": "smtp://Kx7vQz9:Wj4bYt2@h?timout=5", "local": "smtp://localhost"}
        message, (_, shop, _) = failure("checkemailhosts", hosts=hosts)
        assert message == "1 of 2 failed: shop"
        assert shop.endswith("unknown option 'timout'; did you mean 'timeout'?")

    def test_connects_through_tls_and_login_and_sends_nothing(
        self, start_server: ServerFactory, tls: ssl.SSLContext, cafile: Path, tmp_path: Path
    ) -> None:
        server = start_server(context=tls, login=SECRETS)
        login = ":".join(SECRETS)
        hosts = {
            "good": f"submission://{login}@127.0.0.1:{server.port}?ssl_cafile={cafile}",
            "wrong": f"submission://{login}x@127.0.0.1:{server.port}?ssl_cafile={cafile}",
            "foreign": f"submission://{login}@127.0.0.1:{server.port}",
            "unreadable": f"submission://127.0.0.1:{server.port}?ssl_cafile={tmp_path}/no",
            "folder": f"file:{tmp_path}/out",
            "empty": "",
        }
        message, lines = failure("checkemailhosts", hosts=hosts, connect=True)
        assert message == "3 of 6 failed: wrong, foreign, unreadable"
        _, good, wrong, foreign, unreadable, folder, empty = lines
        assert "  OK " in good
        assert good.endswith(" ms")
        assert wrong.endswith("  535 5.7.8 no such login: *****")
        assert "  certificate not trusted: " in foreign
        assert "  cannot load ssl_cafile: " in unreadable
        assert folder.endswith("  OK, no server to connect to")
        assert list((tmp_path / "out").iterdir()) == []
        assert empty.endswith("  empty: not configured")
        assert server.received == []

    def test_tries_the_hosts_side_by_side(self) -> None:
        together = threading.Barrier(3)

        def greet(listener: socket.socket) -> None:
            client, _ = listener.accept()
            with client, client.makefile("rb") as lines:
                together.wait()  # until each host has been connected to
                client.sendall(b"220 hello\r\n")
                for _line in lines:
                    client.sendall(b"250 fine\r\n")

        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        threads = [threading.Thread(target=greet, args=[one]) for one in listeners]
        for thread in threads:
            thread.start()
        hosts = {
            f"host{i}": f"smtp://127.0.0.1:{one.getsockname()[1]}?timeout=20"
            for i, one in enumerate(listeners)
        }
        assert run("checkemailhosts", hosts=hosts, connect=True).count("OK") == 3
        for thread, listener in zip(threads, listeners, strict=True):
            thread.join()
            listener.close()

    @override_settings(EMAIL_HOSTS={"good": "smtp://h", "none": "", "bad": "smpt://h"})
    def test_has_colours_that_can_be_switched_off(self) -> None:
        shown = {}
        for colours in ("force_color", "no_color"):
            out = Terminal()
            with pytest.raises(CommandError, match="1 of 3 failed: bad"):
                call_command("checkemailhosts", stdout=out, **{colours: True})
            shown[colours] = out.getvalue()
        style = color_style(force_color=True)
        assert style.MIGRATE_HEADING("HOST")[:-4] in shown["force_color"]
        assert style.SUCCESS("valid") in shown["force_color"]
        assert style.WARNING("empty: not configured") in shown["force_color"]
        assert style.ERROR("unknown scheme")[:-4] in shown["force_color"]
        assert "\x1b" not in shown["no_color"]
        assert re.sub(r"\x1b\[[0-9;]*m", "", shown["force_color"]) == shown["no_color"]


@pytest.mark.parametrize(
    ("output", "order"), [(Terminal, ["fast", "slow"]), (StringIO, ["slow", "fast"])]
)
@pytest.mark.parametrize(
    "command",
    [["checkemailhosts", "--connect"], ["sendtestemailhosts", "slow,fast", "a@example.net"]],
)
def test_on_a_terminal_a_host_is_shown_as_soon_as_it_is_done(
    command: list[str], output: type[StringIO], order: list[str], closed_port: int
) -> None:
    out = output()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(CommandError, match="2 of 2 failed: "),
        override_settings(
            EMAIL_HOSTS={
                "slow": f"smtp://127.0.0.1:{silent.getsockname()[1]}?timeout=0.5",
                "fast": f"smtp://127.0.0.1:{closed_port}",
            }
        ),
    ):
        call_command(*command, stdout=out, no_color=True)
    assert re.findall("^(fast|slow)", out.getvalue(), re.MULTILINE) == order


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (smtplib.SMTPServerDisconnected("Connection\nclosed"), "Connection closed"),
        (smtplib.SMTPConnectError(554, "text"), "554 text"),
        (smtplib.SMTPDataError(554, b"bytes \xff"), "554 bytes \\xff"),
        (RuntimeError("of a backend\n"), "RuntimeError: of a backend"),
        (
            smtplib.SMTPNotSupportedError("STARTTLS extension not supported by server."),
            "the server offers no STARTTLS (submissions:// is TLS from the first byte, "
            "smtp:// goes without)",
        ),
        (
            smtplib.SMTPNotSupportedError("SMTP AUTH extension not supported by server."),
            "the server takes no login here (without TLS, or at all)",
        ),
        (smtplib.SMTPNotSupportedError("SMTPUTF8 not supported"), "SMTPUTF8 not supported"),
        (TimeoutError("timed out"), "no answer in time"),
        (OSError(113, "No route to host"), "No route to host"),
        (OSError(), "OSError"),
        (smtplib.SMTPServerDisconnected("Connection lost: timed out"), "no answer in time"),
        (smtplib.SMTPDataError(554, b"\x1b[2J\x07 clear"), "554 [2J clear"),
    ],
)
def test_reason_is_one_line(failure: Exception, expected: str) -> None:
    assert explain(failure) == expected


def test_refusals_are_one_line() -> None:
    replies = {"a@x.net": (550, b"\x1b[2J no\n"), "b@x.net": (550, b"\x1b[2J no\n")}
    assert explain_refusals(replies) == "550 [2J no"


def test_host_that_hangs_is_not_waited_for_if_nobody_cares_any_more() -> None:
    """After Ctrl-C, say."""
    end = threading.Event()

    def ask(key: str) -> bool:
        return key == "fast" or end.wait(60)

    answers: Any = side_by_side(ask, ["slow", "fast"], as_they_finish=True)
    assert next(answers) == ("fast", True)
    answers.close()
    end.set()


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_error_that_nobody_expects_is_raised(error: type[BaseException]) -> None:
    def ask(key: str) -> None:
        raise error

    with pytest.raises(error):
        list(side_by_side(ask, ["a"], as_they_finish=False))
