"""A DSN that a stranger may have written (its options are in ``test_options``)."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import tracemalloc
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from django.core.mail.backends.console import EmailBackend
from servers import server_context
from test_readme import run, the_one

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts


@pytest.fixture(autouse=True)
def outside_of_tests():
    with real_hosts():
        yield


class Asked:
    """Allows these servers and no others, and keeps what it was asked."""

    __hash__ = None  # type: ignore[assignment]  # it need not have one

    def __init__(self, *allowed):
        self.allowed = allowed
        self.hosts: list[str] = []
        self.ports: set[int] = set()

    def __call__(self, host, port):
        self.hosts.append(host)
        self.ports.add(port)
        return host in self.allowed


def test_may_be_of_a_scheme_that_the_caller_allows_and_have_4096_characters():
    dsn = "console:" + " " * 4088
    connection: Any = connection_from_dsn(dsn, schemes=["console"], allow=Asked())
    assert isinstance(connection.wrapped, EmailBackend)


PROJECTS = ("backend://a.B", "failover:shop", "anymail+postmark:")  # with its credentials
NO_FUNCTIONS = [["h"], [], True, lambda host: True]

REFUSED: list[Any] = [
    (None, {}, "^a host must be a DSN string, not NoneType$"),
    pytest.param("smtp://h" + " " * 4089, {}, "must have at most 4096 char", id="long"),
    ("locmem:", {}, "is not allowed here; allowed: smtp, .*; pass schemes= to allow it"),
    *((dsn, {}, "is not allowed here; allowed: [^;]*$") for dsn in PROJECTS),
    *((dsn, {"schemes": [dsn.partition(":")[0]]}, "cannot be allowed in") for dsn in PROJECTS),
    ("smtp://h", {"schemes": "console"}, "'smtp' is not allowed here; allowed: console"),
    *(("smtp://h", {"allow": it}, "^'allow' must be a function: ") for it in NO_FUNCTIONS),
    ("smtp://h", {"allow": lambda host, port: 1}, "does not .* must return True$"),
    ("smtp://h", {"allow": Asked()}, r"^allow\(\) does not allow this server$"),
    ("smtps://u:p@[::1]", {"allow": lambda *it: it != ("::1", 465)}, "does not allow"),
    ("smtp://good", {"host": "bad", "allow": Asked("good")}, "does not allow this server$"),
]


@pytest.mark.parametrize(("dsn", "options", "reason"), REFUSED)
def test_is_refused(dsn, options, reason):
    with pytest.raises(InvalidEmailHost, match=reason):
        connection_from_dsn(dsn, **options)


@pytest.mark.parametrize(
    ("option", "parser"),
    [
        ("_server_email", "email._header_value_parser.get_address_list"),
        ("local_hostname", "encodings.idna.ToASCII"),
    ],
)
def test_parser_whose_time_explodes_sees_no_long_value(option, parser):
    """It takes the cube or the square of the length."""
    for length in (100, 400):
        dsn = f"smtp://h?{option}={'ü' * length}"
        with mock.patch(parser, side_effect=UnicodeError) as parse, suppress(InvalidEmailHost):
            connection_from_dsn(dsn)
        assert parse.called is (length == 100)


@pytest.fixture
def site(monkeypatch):
    """Names and their addresses, which may be others at the next look."""
    site = SimpleNamespace(names={}, connected=[])
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host, port, *args, **kwargs):
        looks = site.names.get(host, [[host]])
        addresses = looks.pop(0) if len(looks) > 1 else looks[0]  # the last ones stay
        return [info for each in addresses for info in resolve(each, port, *args, **kwargs)]

    def noted(sock, address):
        site.connected.append(address[0])
        connect(sock, address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", noted)
    return site


NO_ADDRESS = r"^allow\(\) allows no address of this server(\n|$)"
MX = "mx.example.com"


class TestAllow:
    """``allow(host, port)`` is asked with what will be connected to."""

    def test_is_asked_about_each_address_before_it_is_used(self, serve, site, message):
        addresses = ["10.0.0.1", "169.254.169.254", "127.0.0.2", "127.0.0.1"]
        site.names[MX] = [addresses]
        server, allow = serve(), Asked(MX, "127.0.0.2", "127.0.0.1")
        connection = connection_from_dsn(f"smtp://{MX}:{server.port}", allow=allow)
        assert connection.send_messages([message]) == 1
        assert (allow.hosts, allow.ports) == ([MX, *addresses], {server.port})
        assert site.connected == ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first

    def test_name_is_resolved_once_for_question_and_connection(self, serve, site, message):
        """DNS that changes in between: the second answer would be in the network."""
        site.names[MX] = [["127.0.0.1"], ["127.0.0.2"]]
        allow = Asked(MX, "127.0.0.1")
        dsn = f"smtp://{MX}:{serve().port}"
        connection = connection_from_dsn(dsn, allow=allow, fail_silently=True)
        assert connection.send_messages([message]) == 1
        with pytest.raises(InvalidEmailHost, match=NO_ADDRESS):  # and it is never silent
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
            dsn, allow = f"{scheme}://{MX}:{server.port}", Asked(MX, "127.0.0.1")
            return connection_from_dsn(dsn, allow=allow, ssl_cafile=str(cafile))

        with connection(MX):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            connection("127.0.0.1").open()
        assert {*names} - {None} == {MX}  # aiosmtpd looks for its port, without a name

    def test_is_asked_by_each_of_several_connections(self, serve, site, new_message):
        server, allow = serve(), Asked(MX, "127.0.0.1")
        site.names[MX] = [["127.0.0.2", "127.0.0.1"]]
        connection = connection_from_dsn(f"smtp://{MX}:{server.port}?parallel=3", allow=allow)
        connection.send_messages([new_message() for _ in range(30)])
        assert allow.hosts.count("127.0.0.2") == server.connections
        assert set(site.connected) == {"127.0.0.1"}

    def test_kept_connection_is_for_those_who_ask_the_same(self, serve, message, settings):
        server = serve()
        dsn = f"smtp://localhost:{server.port}?conn_max_age=60"
        settings.EMAIL_HOSTS = {"local": dsn}
        one, other = (Asked("localhost", "127.0.0.1", "::1") for _ in range(2))
        for allow in (one, one, one, other):
            assert connection_from_dsn(dsn, allow=allow).send_messages([message]) == 1
        assert server.connections == 2
        get_connection("local").send_messages([message])
        with pytest.raises(InvalidEmailHost, match=NO_ADDRESS):
            connection_from_dsn(dsn, allow=Asked("localhost")).send_messages([message])
        assert server.connections == 3


# Ways to write an address in an own network.
OWN_NETWORK = """
    127.0.0.1 127.1 2130706433 0x7f000001 0177.0.0.1 localhost \uff11\uff12\uff17.0.0.1
    127\u30020.0.1 0.0.0.0 10.0.0.1 172.31.255.255 192.168.1.1 169.254.169.254 2852039166
    100.64.0.1 198.18.0.1 192.0.2.1 224.0.0.1 240.0.0.1 255.255.255.255 [::1] [::]
    [fe80::1%25lo] [fd00:ec2::254] [ff0e::1] [2001:db8::1] [::ffff:7f00:1] [::ffff:10.0.0.1]
    [::127.0.0.1] [::ffff:0:127.0.0.1] [64:ff9b::a00:1] [64:ff9b:1::a00:1] 168.63.129.16
    192.0.0.192 2822734096 [::ffff:168.63.129.16] [::ffff:c000:c0] [64:ff9b::a83f:8110]
"""


class TestRecipe:
    """What the README has: strangers stay out of private networks."""

    is_public = staticmethod(run(the_one("def is_public"))["is_public"])

    @pytest.mark.parametrize("host", [*OWN_NETWORK.split(), MX])
    def test_own_network_is_refused(self, host, site):
        site.names[MX] = [["127.0.0.1", "10.0.0.1", "::ffff:127.0.0.1", "::1", "0.0.0.0"]]
        with pytest.raises((InvalidEmailHost, socket.gaierror)):
            connection_from_dsn(f"smtp://{host}:2525?timeout=1", allow=self.is_public).open()
        assert site.connected == []

    @pytest.mark.parametrize("host", ["smtp.example.com", "8.8.8.8", "2001:4860:4860::8888"])
    def test_rest_of_the_world_is_allowed(self, host):
        assert self.is_public(host, 587)


@pytest.mark.slow
class TestMemory:
    """Whatever a stranger can vary leaves no more than a bounded rest."""

    def bytes_left_by(self, act, times):
        """Return the bytes that are left of doing this so often."""
        act(-1)
        gc.collect()
        tracemalloc.start()
        for number in range(times):
            act(number)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    @pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
    def test_of_unknown_keys(self, monkeypatch):
        """1,024 are remembered, without the list of the hosts that there are."""
        monkeypatch.setattr(logging.getLogger("email_hosts"), "disabled", True)
        assert self.bytes_left_by(lambda number: get_connection(f"a{number}"), 1500) < 500_000
        assert self.bytes_left_by(lambda number: get_connection(f"b{number}"), 1500) < 100_000

    @pytest.mark.parametrize("rest", ["", "?timout=5"])
    def test_of_dsns(self, rest):
        def act(number):
            with suppress(InvalidEmailHost):
                connection_from_dsn(f"smtp://u{number}:{'p' * 4000}@h{rest}")

        assert self.bytes_left_by(act, 600) < 256 * 16_000
