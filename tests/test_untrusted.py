"""A DSN that a stranger may have written: ``connection_from_dsn``."""

from __future__ import annotations

import os
import socket
import ssl
from email import policy
from typing import Any
from unittest import mock

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from servers import server_context
from test_readme import OTHERS

from email_hosts import addresses
from email_hosts import dsn as grammar
from email_hosts.addresses import MAX_EMAIL_ADDRESS, MAX_HOST_NAME
from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts
from email_hosts.testmode import test_mode

FILES = ("ssl_certfile", "ssl_keyfile", "ssl_cafile")


@pytest.fixture(autouse=True)
def outside_of_tests():
    with real_hosts():
        yield


class TestFiles:
    """It names no file. The caller may."""

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("path", ["/etc/hostname", "/there/is/no/such/file", "%2Fx"])
    def test_option_is_refused_in_the_same_words_whatever_exists(self, name, path):
        beside = "ssl_certfile=/x&" if name == "ssl_keyfile" else ""
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(f"smtps://h?{beside}{name}={path}")
        name = "ssl_certfile" if beside else name
        assert str(caught.value) == (
            f"option '{name}' is not allowed in a DSN from elsewhere; pass {name}= to "
            "connection_from_dsn() yourself"
        )

    @pytest.mark.parametrize("rest", ["console:?", "dummy:?", "file:out?", "locmem:?"])
    def test_other_schemes_are_no_way_around_it(self, rest):
        with pytest.raises(InvalidEmailHost, match="unknown option 'ssl_certfile'"):
            connection_from_dsn(f"{rest}ssl_certfile=/x", schemes=[rest.partition(":")[0]])

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
    def test_file_is_not_looked_at(self, tmp_path):
        """One that nobody writes to would hold up the worker for ever."""
        os.mkfifo(tmp_path / "fifo")
        for name in ("ssl_cafile", "ssl_certfile"):
            with pytest.raises(InvalidEmailHost, match="is not allowed"):
                connection_from_dsn(f"smtps://h?{name}={tmp_path / 'fifo'}")

    def test_file_of_the_caller_is_used(self, start_server, tls, cafile):
        dsn = f"submission://127.0.0.1:{start_server(context=tls).port}"
        with connection_from_dsn(dsn, ssl_cafile=str(cafile)):
            pass

    def test_hosts_of_the_settings_may_name_files(self, settings):
        settings.EMAIL_HOSTS = {
            "shop": "smtps://h?ssl_cafile=/x&timeout=9000&conn_max_age=9000"
        }
        connection: Any = get_connection("shop")
        assert (connection.ssl_cafile, connection.timeout) == ("/x", 9000)


class TestLimits:
    """Seconds, connections and lengths have an upper limit."""

    @pytest.mark.parametrize(
        ("name", "most"), [("timeout", "600"), ("timeout", "0600.0"), ("conn_max_age", "3600")]
    )
    def test_seconds_may_be_that_many(self, name, most):
        connection = connection_from_dsn(f"smtp://h?{name}={most}")
        assert getattr(connection, name) == float(most)

    @pytest.mark.parametrize(
        ("name", "value", "limit"),
        [
            ("timeout", "601", 600),
            ("timeout", "600.001", 600),
            ("timeout", "9000000000", 600),
            ("conn_max_age", "3601", 3600),
            ("conn_max_age", "9000000000", 3600),
            ("conn_max_idle", "11", 10),
            ("parallel", "5", 4),
        ],
    )
    def test_more_is_refused(self, name, value, limit):
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(f"smtp://h?{name}={value}")
        assert str(caught.value) == (
            f"option '{name}' must be at most {limit} in a DSN from elsewhere"
        )

    def test_caller_may_take_more_seconds(self):
        connection: Any = connection_from_dsn("smtp://h?timeout=5", timeout=9000)
        assert connection.timeout == 9000

    def test_length_may_be_4096(self):
        dsn = "smtp://user:" + "p" * 4081 + "@h"
        assert len(dsn + " ") == 4096
        connection: Any = connection_from_dsn(dsn + " ")
        assert connection.password == "p" * 4081

    @pytest.mark.parametrize(
        "dsn",
        [
            "smtp://h" + " " * 4089,
            "smtp://user:" + "p" * 5000 + "@h",
            "smtp://h?_default_from_email=" + "a" * 3_230 + " (" * 500,
            "smtp://" + "a" * 1_000_000,
            "smtp://h?" + "&" * 1_000_000,
            "x" * 1_000_000,
        ],
        ids=["spaces", "password", "sender", "host", "options", "scheme"],
    )
    def test_longer_one_is_refused_before_anything_looks_at_it(self, dsn, monkeypatch):
        look = mock.Mock()
        monkeypatch.setattr(grammar, "parse", look)
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(dsn)
        assert str(caught.value) == "the DSN must have at most 4096 characters"
        look.assert_not_called()

    @pytest.mark.parametrize(
        ("length", "calls"), [(MAX_EMAIL_ADDRESS, 1), (MAX_EMAIL_ADDRESS + 1, 0), (4000, 0)]
    )
    @pytest.mark.parametrize("name", ["_default_from_email", "_server_email"])
    def test_parser_of_headers_sees_no_long_sender(self, name, length, calls, monkeypatch):
        """It takes the cube of the length."""
        addresses.email_address.cache_clear()
        grammar._parse.cache_clear()
        parsed = []
        default = policy.default

        class Default:
            def header_factory(self, field, value):
                parsed.append(value)
                return default.header_factory(field, value)

        monkeypatch.setattr(policy, "default", Default())
        sender = "(" * (length - 14) + "a@example.com)"
        assert len(sender) == length
        with pytest.raises(InvalidEmailHost, match="must be one email address"):
            connection_from_dsn(f"smtp://h?{name}={sender}")
        assert len(parsed) == calls

    @pytest.mark.parametrize("length", [MAX_HOST_NAME, MAX_HOST_NAME + 1, 4000])
    def test_idna_sees_no_long_name(self, length):
        """It takes the square of the length."""
        seen = []

        class Name(str):
            def encode(self, *args, **kwargs):
                seen.append(len(self))
                return super().encode(*args, **kwargs)

        # A letter that stands for eighteen.
        assert not addresses.is_host_name(
            Name("\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * length)
        )
        assert bool(seen) is (length <= MAX_HOST_NAME)


class TestSchemes:
    @pytest.mark.parametrize(
        "dsn",
        ["console:", "file:///etc", "dummy:", "locmem:", "backend://a.B", "failover:a,b"],
    )
    def test_is_an_smtp_host(self, dsn):
        with pytest.raises(InvalidEmailHost, match="is not allowed here; allowed: smtp, "):
            connection_from_dsn(dsn)


class Site:
    """Names and their addresses, which may be others at the next look."""

    def __init__(self, monkeypatch):
        self.names: dict[str, list[list[str]]] = {}
        self.connected: list[str] = []
        self._resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)
        connect = socket.socket.connect

        def noted(sock, address):
            self.connected.append(address[0])
            connect(sock, address)

        monkeypatch.setattr(socket.socket, "connect", noted)

    def getaddrinfo(self, host, port, *args, **kwargs):
        """Answer with the next addresses of the name. The last ones stay."""
        looks = self.names.get(host, [[host]])
        addresses = looks.pop(0) if len(looks) > 1 else looks[0]
        return [
            info
            for address in addresses
            for info in self._resolve(address, port, *args, **kwargs)
        ]


@pytest.fixture
def site(monkeypatch):
    return Site(monkeypatch)


def message():
    return EmailMessage("Hello", "World", "s@example.com", ["someone@example.net"])


class TestAllow:
    """``allow(host, port)`` is asked with what will be connected to."""

    @pytest.mark.parametrize(
        ("dsn", "expected"),
        [
            ("smtp://h", ("h", 25)),
            ("submission://h", ("h", 587)),
            ("smtps://u:p@h", ("h", 465)),
            ("smtp://h?ssl", ("h", 465)),
            ("smtp://H.Example:2525", ("h.example", 2525)),
            ("smtp://[2001:db8::1]", ("2001:db8::1", 25)),
        ],
    )
    def test_is_asked_when_the_connection_is_made(self, dsn, expected):
        asked = []
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(dsn, allow=lambda *server: bool(asked.append(server)))  # type: ignore[func-returns-value]
        assert str(caught.value) == "allow() does not allow this server"
        assert [(host.lower(), port) for host, port in asked] == [expected]

    def test_is_asked_about_what_the_caller_says_instead(self):
        with pytest.raises(InvalidEmailHost, match="does not allow this server"):
            connection_from_dsn(
                "smtp://good", host="bad", allow=lambda host, _: host == "good"
            )

    def test_is_asked_where_tests_capture_the_mail(self, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(test_mode, "real_blocks", 0)
            connection = connection_from_dsn("smtp://h", allow=lambda host, port: True)
            assert connection.send_messages([message()]) == len(mail.outbox) == 1
            with pytest.raises(InvalidEmailHost, match="does not allow this server"):
                connection_from_dsn("smtp://h", allow=lambda host, port: False)

    def test_is_asked_about_each_address_before_it_is_used(self, serve, site):
        server = serve()
        addresses = ["10.0.0.1", "169.254.169.254", "127.0.0.2", "127.0.0.1"]
        site.names["mx.example.com"] = [addresses]
        asked = []

        def allow(host, port):
            asked.append((host, port))
            return host == "mx.example.com" or host.startswith("127.")

        dsn = f"smtp://mx.example.com:{server.port}"
        assert connection_from_dsn(dsn, allow=allow).send_messages([message()]) == 1
        assert asked == [(host, server.port) for host in ("mx.example.com", *addresses)]
        assert site.connected == ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first

    def test_name_is_resolved_once_for_the_question_and_the_connection(self, serve, site):
        """DNS that changes in between: the second answer would be in the network."""
        server = serve()
        site.names["rebinding.example.com"] = [["127.0.0.1"], ["127.0.0.2"]]
        connection = connection_from_dsn(
            f"smtp://rebinding.example.com:{server.port}",
            allow=lambda host, port: host in {"rebinding.example.com", "127.0.0.1"},
        )
        assert connection.send_messages([message()]) == 1
        assert site.connected == ["127.0.0.1"]
        with pytest.raises(InvalidEmailHost, match="allows no address of this server"):
            connection.send_messages([message()])
        assert site.connected == ["127.0.0.1"]

    @pytest.mark.parametrize("scheme", ["smtps", "submission"])
    def test_certificate_is_that_of_the_name(
        self, scheme, start_server, site, ca, cafile, monkeypatch
    ):
        site.names["mx.example.com"] = [["127.0.0.1"]]
        names = []
        options: dict[str, Any] = {"allow": lambda host, port: True, "ssl_cafile": str(cafile)}
        for name, is_good in (("mx.example.com", True), ("127.0.0.1", False)):
            context = server_context(ca.issue_cert(name))
            context.sni_callback = lambda sock, name, context: names.append(name)
            server = start_server(context=context, implicit=scheme == "smtps")
            dsn = f"{scheme}://mx.example.com:{server.port}"
            if is_good:
                with connection_from_dsn(dsn, **options):
                    pass
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    connection_from_dsn(dsn, **options).open()
        # aiosmtpd looks whether its port is there, without a name.
        assert set(filter(None, names)) == {"mx.example.com"}

    def test_is_asked_by_each_of_several_connections(self, serve, site):
        asked = []
        server = serve()
        site.names["mx.example.com"] = [["127.0.0.2", "127.0.0.1"]]
        connection = connection_from_dsn(
            f"smtp://mx.example.com:{server.port}?parallel=3",
            allow=lambda host, port: asked.append(host) or host != "127.0.0.2",  # type: ignore[func-returns-value]
        )
        connection.send_messages([message() for _ in range(30)])
        assert asked == ["mx.example.com", *asked[1:]]
        assert asked.count("127.0.0.2") == asked.count("127.0.0.1") == server.connections
        assert set(site.connected) == {"127.0.0.1"}

    def test_error_is_the_callers(self):
        def allow(host, port):
            raise LookupError(host)

        with pytest.raises(LookupError, match="h"):
            connection_from_dsn("smtp://h", allow=allow)

    @pytest.mark.parametrize("fail_silently", [True, False])
    def test_refusal_is_never_silent(self, fail_silently, site):
        site.names["mx.example.com"] = [["127.0.0.1"]]
        connection = connection_from_dsn(
            "smtp://mx.example.com",
            allow=lambda host, port: host == "mx.example.com",
            fail_silently=fail_silently,
        )
        with pytest.raises(InvalidEmailHost, match="allows no address of this server"):
            connection.send_messages([message()])
        assert site.connected == []


class TestAllowAndKeptConnections:
    """A kept connection is for those who ask the same function."""

    def send(self, server, allow):
        dsn = f"smtp://localhost:{server.port}?conn_max_age=60"
        return connection_from_dsn(dsn, allow=allow).send_messages([message()])

    @staticmethod
    def only_names(host, port):
        return host == "localhost"

    class Everything:
        """It need not be hashable."""

        __hash__ = None  # type: ignore[assignment]

        def __call__(self, host, port):
            return True

    def test_same_function_shares_it(self, serve):
        server = serve()
        one, other = self.Everything(), self.Everything()
        assert [self.send(server, allow) for allow in (one, one, one, other)] == [1, 1, 1, 1]
        assert server.connections == 2

    def test_stricter_function_does_not_get_it(self, serve):
        server = serve()
        self.send(server, self.Everything())
        with pytest.raises(InvalidEmailHost, match="allows no address of this server"):
            self.send(server, self.only_names)
        assert server.connections == 1

    def test_stranger_does_not_get_that_of_a_host_in_the_settings(self, serve, settings):
        server = serve()
        dsn = f"smtp://localhost:{server.port}?conn_max_age=60"
        settings.EMAIL_HOSTS = {"local": dsn}
        get_connection("local").send_messages([message()])
        with pytest.raises(InvalidEmailHost, match="allows no address of this server"):
            self.send(server, self.only_names)


class TestRecipe:
    """What the README has: strangers stay out of private networks."""

    @pytest.fixture
    def is_public(self):
        (block,) = (block for block in OTHERS if "def is_public" in block)
        names: dict[str, Any] = {}
        exec(block, names)
        return names["is_public"]

    @pytest.mark.parametrize(
        "host",
        [
            *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1"),
            *(
                "017700000001",
                "127.255.255.254",
                "localhost",
                "\uff11\uff12\uff17.0.0.1",
                "127\u30020.0.1",
            ),
            *("0.0.0.0", "0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
            *("169.254.169.254", "2852039166", "100.64.0.1", "198.18.0.1", "192.0.2.1"),
            *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
            *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[fe80::1]", "[fe80::1%25lo]"),
            *("[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[ff0e::1]", "[2001:db8::1]"),
            *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]"),
            *("[::ffff:169.254.169.254]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]"),
            # NAT64, RFC 6052 and RFC 8215
            *("[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::a00:1]"),
            # The platforms of Azure and Oracle
            *("168.63.129.16", "192.0.0.192", "2822734096", "3221225664"),
            *("[::ffff:168.63.129.16]", "[::ffff:c000:c0]", "[64:ff9b::a83f:8110]"),
        ],
    )
    def test_own_network_is_refused(self, host, is_public, site):
        with pytest.raises((InvalidEmailHost, socket.gaierror)):
            connection_from_dsn(f"smtp://{host}:2525?timeout=1", allow=is_public).open()
        assert site.connected == []

    @pytest.mark.parametrize(
        "addresses",
        [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::ffff:127.0.0.1"], ["::1"], ["0.0.0.0"]],
    )
    def test_name_in_the_own_network_is_refused(self, addresses, is_public, site):
        site.names["mx.example.com"] = [addresses]
        connection = connection_from_dsn("smtp://mx.example.com", allow=is_public)
        with pytest.raises(InvalidEmailHost, match="allows no address of this server"):
            connection.open()
        assert site.connected == []

    @pytest.mark.parametrize(
        "host", ["smtp.example.com", "8.8.8.8", "2001:4860:4860::8888", "203.0.114.1"]
    )
    def test_rest_of_the_world_is_allowed(self, host, is_public):
        assert is_public(host, 587)
