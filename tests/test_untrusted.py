"""A DSN that a stranger may have written: ``connection_from_dsn``."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any
from unittest import mock

import pytest
from django.core import mail
from django.core.mail.backends.console import EmailBackend
from servers import server_context
from test_readme import OTHERS

from email_hosts import addresses
from email_hosts.addresses import MAX_EMAIL_ADDRESS, MAX_HOST_NAME
from email_hosts.backends import EmailHostsBackend, connection_from_dsn, get_connection
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts
from email_hosts.testmode import test_mode


@pytest.fixture(autouse=True)
def outside_of_tests():
    with real_hosts():
        yield


def test_becomes_a_connection_with_the_callers_options():
    dsn = "smtps://u:p@h?_default_from_email=a@example.com&timeout=5"
    connection: Any = connection_from_dsn(dsn, fail_silently=True, timeout=9000)
    assert isinstance(connection, EmailHostsBackend)
    assert (connection.alias, connection.host, connection.timeout) == (None, "h", 9000)
    assert connection.default_from_email == "a@example.com"
    assert connection.fail_silently is True


@pytest.mark.parametrize("dsn", ["", None, "smtp://u:Kx7vQz9@h?timout=5"])
def test_is_refused_without_a_key(dsn):
    with pytest.raises(InvalidEmailHost) as caught:
        connection_from_dsn(dsn)
    assert "EMAIL_HOSTS" not in str(caught.value)


class TestFiles:
    """It names no file. The caller may."""

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
    @pytest.mark.parametrize(
        "option", ["ssl_certfile", "ssl_cafile", "ssl_certfile=/x&ssl_keyfile"]
    )
    def test_are_refused_in_the_same_words_and_not_looked_at(self, option, tmp_path):
        """A FIFO that nobody writes to would hold up the worker for ever."""
        os.mkfifo(tmp_path / "fifo")
        texts = set()
        for path in ("/etc/hostname", "/there/is/no/such/file", tmp_path / "fifo"):
            with pytest.raises(InvalidEmailHost) as caught:
                connection_from_dsn(f"smtps://h?{option}={path}")
            texts.add(str(caught.value))
        (text,) = texts
        name = option.partition("=")[0]
        assert text.startswith(f"option '{name}' is not allowed in a DSN from elsewhere")
        assert f"pass {name}= to connection_from_dsn()" in text

    def test_of_the_caller_are_used(self, start_server, tls, cafile):
        dsn = f"submission://127.0.0.1:{start_server(context=tls).port}"
        with connection_from_dsn(dsn, ssl_cafile=str(cafile)):
            pass


@pytest.mark.parametrize(
    ("dsn", "answer"),
    [
        ("submission://u@127.0.0.1?oauth2=client_credentials", "option 'oauth2' is not allow"),
        ("smtp://h?oauth2_scope=", "option 'oauth2_scope' is not allowed"),
        ("smtp://h?ssl_cafile ", "option 'ssl_cafile' is not allowed"),
        (
            "submission://u@h",
            "the host has a user name and no password; write both or neither ",
        ),
    ],
)
def test_nobody_asks_for_more_of_what_is_refused(dsn, answer):
    with pytest.raises(InvalidEmailHost) as caught:
        connection_from_dsn(dsn)
    assert str(caught.value).startswith(answer)


class TestLimits:
    """Numbers and lengths have an upper limit."""

    @pytest.mark.parametrize(
        ("name", "limit", "more"),
        [
            ("timeout", 600, 600.001),
            ("conn_max_age", 3600, 3601),
            ("conn_max_idle", 10, 11),
            ("parallel", 4, 5),
        ],
    )
    def test_number_is_at_most_that(self, name, limit, more, settings):
        connection: Any = connection_from_dsn(f"smtp://h?{name}={limit}")
        assert getattr(connection, name) == limit
        with pytest.raises(InvalidEmailHost, match=f"'{name}' must be at most {limit} in a"):
            connection_from_dsn(f"smtp://h?{name}={more}")
        settings.EMAIL_HOSTS = {"shop": f"smtp://h?{name}={more}"}
        of_settings: Any = get_connection("shop")
        assert getattr(of_settings, name) == more

    def test_length_may_be_4096(self):
        dsn = "smtp://user:" + "p" * 4081 + "@h "
        assert len(dsn) == 4096
        connection: Any = connection_from_dsn(dsn)
        assert connection.password == "p" * 4081

    @pytest.mark.parametrize(
        "dsn",
        ["smtp://h" + " " * 4089, "smtp://h?" + "&" * 1_000_000, "x" * 1_000_000],
        ids=["spaces", "options", "scheme"],
    )
    def test_longer_one_is_refused_before_anything_looks_at_it(self, dsn):
        with pytest.raises(InvalidEmailHost, match=r"^the DSN must have at most 4096 char"):
            connection_from_dsn(dsn)

    @pytest.mark.parametrize(
        ("length", "is_parsed"), [(MAX_EMAIL_ADDRESS, True), (MAX_EMAIL_ADDRESS + 1, False)]
    )
    def test_parser_of_headers_sees_no_long_sender(self, length, is_parsed):
        """It takes the cube of the length."""
        with (
            mock.patch("email.policy.default") as default,
            pytest.raises(InvalidEmailHost, match="must be one email address"),
        ):
            connection_from_dsn("smtp://h?_server_email=" + "(" * length)
        assert default.header_factory.called is is_parsed

    @pytest.mark.parametrize("length", [MAX_HOST_NAME, MAX_HOST_NAME + 1])
    def test_idna_sees_no_long_name(self, length):
        """It takes the square of the length."""
        seen = []

        class Name(str):
            def encode(self, *args, **kwargs):
                seen.append(len(self))
                return super().encode(*args, **kwargs)

        # A letter that stands for eighteen.
        letter = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}"
        assert not addresses.is_host_name(Name(letter * length))
        assert bool(seen) is (length <= MAX_HOST_NAME)


class TestSchemes:
    """An SMTP host, or what the caller allows."""

    @pytest.mark.parametrize(
        "dsn", ["console:", "file:///etc", "locmem:", "backend://a.B", "failover:a,b"]
    )
    def test_are_those_of_smtp(self, dsn):
        with pytest.raises(InvalidEmailHost, match="is not allowed here; allowed: smtp, "):
            connection_from_dsn(dsn)

    @pytest.mark.parametrize("dsn", ["console:", "file:out"])
    def test_that_are_harmless_can_be_allowed(self, dsn):
        with pytest.raises(InvalidEmailHost, match="; pass schemes= to allow it"):
            connection_from_dsn(dsn)

    def test_may_be_those_that_the_caller_allows(self):
        connection: Any = connection_from_dsn("console://", schemes={"console"})
        assert isinstance(connection.wrapped, EmailBackend)
        with pytest.raises(InvalidEmailHost, match="'smtp' is not allowed here; allowed: con"):
            connection_from_dsn("smtp://h", schemes="console")

    @pytest.mark.parametrize("dsn", ["backend://a.B", "failover:shop", "anymail+postmark:"])
    @pytest.mark.parametrize("others", [[], ["smtp"]])
    def test_may_not_be_one_with_credentials_of_the_project(self, dsn, others):
        scheme = dsn.partition(":")[0]
        with pytest.raises(InvalidEmailHost) as caught:
            connection_from_dsn(dsn, schemes=[scheme, *others])
        assert str(caught.value).startswith(f"scheme '{scheme}' cannot be allowed in a DSN fr")


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


class Asked:
    """Allows these servers and no others, and keeps what it was asked."""

    __hash__ = None  # type: ignore[assignment]  # it need not have one

    def __init__(self, *allowed):
        self.allowed = allowed
        self.hosts: list[str] = []

    def __call__(self, host, port):
        self.hosts.append(host)
        return host in self.allowed


NO_ADDRESS = "allows no address of this server"
MX = "mx.example.com"


class TestAllow:
    """``allow(host, port)`` is asked with what will be connected to."""

    @pytest.mark.parametrize(
        ("dsn", "expected"),
        [
            ("smtp://h", ("h", 25)),
            ("submission://h", ("h", 587)),
            ("smtps://u:p@h", ("h", 465)),
            ("smtp://H.Example:2525", ("h.example", 2525)),
            ("smtp://[2001:db8::1]", ("2001:db8::1", 25)),
        ],
    )
    def test_is_asked_when_the_connection_is_made(self, dsn, expected):
        allow = mock.Mock(return_value=False)
        with pytest.raises(InvalidEmailHost, match=r"^allow\(\) does not allow this server$"):
            connection_from_dsn(dsn, allow=allow)
        assert [call.args for call in allow.call_args_list] == [expected]

    @pytest.mark.parametrize("answer", [None, 1, "yes"])
    def test_says_true_and_nothing_else(self, answer):
        with pytest.raises(InvalidEmailHost, match=r"does not allow .* must return True$"):
            connection_from_dsn("smtp://h", allow=lambda host, port: answer)

    @pytest.mark.parametrize("allow", [["h"], [], True, False, "h", lambda host: True])
    def test_is_a_function(self, allow):
        reason = r"^'allow' must be a function: allow\(host, port\) returns True$"
        with pytest.raises(InvalidEmailHost, match=reason):
            connection_from_dsn("smtp://h", allow=allow)

    def test_is_asked_about_what_the_caller_says_instead(self):
        with pytest.raises(InvalidEmailHost, match="does not allow this server"):
            connection_from_dsn("smtp://good", host="bad", allow=Asked("good"))

    def test_is_not_asked_where_nothing_leaves_the_machine(self):
        assert connection_from_dsn("console:", schemes=["console"], allow=Asked())

    def test_is_asked_where_tests_capture_the_mail(self, monkeypatch, message):
        with monkeypatch.context() as patch:
            patch.setattr(test_mode, "real_blocks", 0)
            connection = connection_from_dsn("smtp://h", allow=Asked("h"))
            assert connection.send_messages([message]) == len(mail.outbox) == 1
            with pytest.raises(InvalidEmailHost, match="does not allow this server"):
                connection_from_dsn("smtp://h", allow=Asked())

    def test_is_asked_about_each_address_before_it_is_used(self, serve, site, message):
        addresses = ["10.0.0.1", "169.254.169.254", "127.0.0.2", "127.0.0.1"]
        site.names[MX] = [addresses]
        allow = Asked(MX, "127.0.0.2", "127.0.0.1")
        connection = connection_from_dsn(f"smtp://{MX}:{serve().port}", allow=allow)
        assert connection.send_messages([message]) == 1
        assert allow.hosts == [MX, *addresses]
        assert site.connected == ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first

    def test_name_is_resolved_once_for_the_question_and_the_connection(
        self, serve, site, message
    ):
        """DNS that changes in between: the second answer would be in the network."""
        site.names[MX] = [["127.0.0.1"], ["127.0.0.2"]]
        allow = Asked(MX, "127.0.0.1")
        connection = connection_from_dsn(f"smtp://{MX}:{serve().port}", allow=allow)
        assert connection.send_messages([message]) == 1
        with pytest.raises(InvalidEmailHost, match=NO_ADDRESS):
            connection.send_messages([message])
        assert site.connected == ["127.0.0.1"]

    @pytest.mark.parametrize("scheme", ["smtps", "submission"])
    def test_certificate_is_that_of_the_name(self, scheme, start_server, site, ca, cafile):
        site.names[MX] = [["127.0.0.1"]]
        names = []

        def connection(certified):
            context = server_context(ca.issue_cert(certified))
            context.sni_callback = lambda sock, name, context: names.append(name)
            server = start_server(context=context, implicit=scheme == "smtps")
            return connection_from_dsn(
                f"{scheme}://{MX}:{server.port}",
                allow=lambda host, port: True,
                ssl_cafile=str(cafile),
            )

        with connection(MX):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            connection("127.0.0.1").open()
        # aiosmtpd looks whether its port is there, without a name.
        assert set(filter(None, names)) == {MX}

    def test_is_asked_by_each_of_several_connections(self, serve, site, new_message):
        server, allow = serve(), Asked(MX, "127.0.0.1")
        site.names[MX] = [["127.0.0.2", "127.0.0.1"]]
        connection = connection_from_dsn(f"smtp://{MX}:{server.port}?parallel=3", allow=allow)
        connection.send_messages([new_message() for _ in range(30)])
        assert allow.hosts.count("127.0.0.2") == server.connections
        assert set(site.connected) == {"127.0.0.1"}

    def test_error_is_the_callers(self):
        with pytest.raises(LookupError):
            connection_from_dsn("smtp://h", allow=mock.Mock(side_effect=LookupError))

    def test_refusal_is_never_silent(self, site, message):
        site.names[MX] = [["127.0.0.1"]]
        connection = connection_from_dsn(f"smtp://{MX}", allow=Asked(MX), fail_silently=True)
        with pytest.raises(InvalidEmailHost, match=NO_ADDRESS):
            connection.send_messages([message])
        assert site.connected == []


class TestAllowAndKeptConnections:
    """A kept connection is for those who ask the same function."""

    @pytest.fixture
    def dsn(self, serve):
        self.server = serve()
        return f"smtp://localhost:{self.server.port}?conn_max_age=60"

    def test_same_function_shares_it(self, dsn, message):
        one, other = (Asked("localhost", "127.0.0.1", "::1") for _ in range(2))
        for allow in (one, one, one, other):
            assert connection_from_dsn(dsn, allow=allow).send_messages([message]) == 1
        assert self.server.connections == 2

    @pytest.mark.parametrize("first", ["stranger", "host of the settings"])
    def test_stricter_function_does_not_get_it(self, first, dsn, message, settings):
        settings.EMAIL_HOSTS = {"local": dsn}
        generous = lambda host, port: True  # noqa: E731
        if first == "stranger":
            connection_from_dsn(dsn, allow=generous).send_messages([message])
        else:
            get_connection("local").send_messages([message])
        with pytest.raises(InvalidEmailHost, match=NO_ADDRESS):
            connection_from_dsn(dsn, allow=Asked("localhost")).send_messages([message])
        assert self.server.connections == 1


# Each way to write an address in an own network, and what is reached through it.
OWN_NETWORK = """
    127.0.0.1 127.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 127.255.255.254
    localhost \uff11\uff12\uff17.0.0.1 127\u30020.0.1
    0.0.0.0 0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1
    169.254.169.254 2852039166 100.64.0.1 198.18.0.1 192.0.2.1
    224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    [::1] [::] [0:0:0:0:0:0:0:1] [fe80::1] [fe80::1%25lo]
    [fc00::1] [fd00:ec2::254] [ff02::1] [ff0e::1] [2001:db8::1]
    [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1]
    [::ffff:169.254.169.254] [::127.0.0.1] [::ffff:0:127.0.0.1]
    [64:ff9b::127.0.0.1] [64:ff9b::a00:1] [64:ff9b:1::a00:1]
    168.63.129.16 192.0.0.192 2822734096 3221225664
    [::ffff:168.63.129.16] [::ffff:c000:c0] [64:ff9b::a83f:8110]
"""


class TestRecipe:
    """What the README has: strangers stay out of private networks."""

    @pytest.fixture
    def is_public(self):
        (block,) = (block for block in OTHERS if "def is_public" in block)
        names: dict[str, Any] = {}
        exec(block, names)
        return names["is_public"]

    @pytest.mark.parametrize("host", OWN_NETWORK.split())
    def test_own_network_is_refused(self, host, is_public, site):
        with pytest.raises((InvalidEmailHost, socket.gaierror)):
            connection_from_dsn(f"smtp://{host}:2525?timeout=1", allow=is_public).open()
        assert site.connected == []

    @pytest.mark.parametrize(
        "addresses",
        [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::ffff:127.0.0.1"], ["::1"], ["0.0.0.0"]],
    )
    def test_name_in_the_own_network_is_refused(self, addresses, is_public, site):
        site.names[MX] = [addresses]
        connection = connection_from_dsn(f"smtp://{MX}", allow=is_public)
        with pytest.raises(InvalidEmailHost, match=NO_ADDRESS):
            connection.open()
        assert site.connected == []

    @pytest.mark.parametrize(
        "host", ["smtp.example.com", "8.8.8.8", "2001:4860:4860::8888", "203.0.114.1"]
    )
    def test_rest_of_the_world_is_allowed(self, host, is_public):
        assert is_public(host, 587)
