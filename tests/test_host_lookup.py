"""Ten thousand hosts cost what ten do: counted, not timed."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers
from django.core.checks import run_checks
from django.core.mail import EmailMessage
from django.test import override_settings
from scripted import at

from email_hosts import dsn as grammar
from email_hosts import hosts, mailers
from email_hosts.backends import RoutingBackend, connection_from_dsn, get_connection
from email_hosts.backends.routing import host_of_sender
from email_hosts.exceptions import EmailHostDoesNotExist, InvalidEmailHost
from email_hosts.smtp import pipelining
from email_hosts.testing import real_hosts

MANY = 10_000

pytestmark = pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")

numbers = pytest.mark.parametrize("number", [10, MANY])


def hosts_of(number):
    """Return so many hosts, each with a sender and a domain of its own."""
    return {
        f"shop-{i}": f"submission://u:p{i}@smtp{i}.example.com?_default_from_email=shop@{i}.example"
        for i in range(number)
    }


@pytest.fixture
def parses(monkeypatch):
    """Count the DSNs that are read, from the cache of the parser or not."""
    parses = mock.Mock(wraps=grammar._parse)
    monkeypatch.setattr(grammar, "_parse", parses)
    return parses


def message(from_email=None):
    return EmailMessage("Hello", "World", from_email, ["someone@example.net"])


class TestParses:
    """Each DSN is read once for as long as the setting is the same object."""

    @numbers
    @pytest.mark.parametrize("options", [{}, {"timeout": 5}])
    def test_of_get_connection(self, options, number, parses):
        with override_settings(EMAIL_HOSTS=hosts_of(number)):
            get_connection("shop-0", **options)
            assert parses.call_count == 1
            for _ in range(300):
                get_connection("shop-0", **options)
            assert parses.call_count == 1

    @numbers
    def test_of_all_hosts_in_turn(self, number, parses):
        """More hosts than the cache of the parser holds, over and over."""
        with override_settings(EMAIL_HOSTS=hosts_of(number)):
            for _ in range(2):
                for key in hosts_of(number):
                    hosts.find(key)
            assert parses.call_count == number

    @numbers
    def test_of_choosing_a_host_by_its_sender(self, number, parses):
        with override_settings(EMAIL_HOSTS=hosts_of(number)):
            assert host_of_sender(message("shop@3.example")) == "shop-3"
            assert parses.call_count == number
            for i in range(number):
                host_of_sender(message(f"shop@{i}.example"))
                host_of_sender(message(f"somebody@{i}.example"))
                host_of_sender(message(f"shop@nobody-{i}.example"))
            assert parses.call_count == number

    @numbers
    def test_of_an_unknown_key(self, number, parses):
        with override_settings(EMAIL_HOSTS=hosts_of(number)):
            for i in range(50):
                get_connection(f"unknown-{i}")
        assert parses.call_count == 0

    @numbers
    def test_of_a_failover(self, number, parses, serve):
        servers = [serve(at("MAIL", *["450 later"] * 9)), serve()]
        members = {
            f"m{i}": f"smtp://127.0.0.1:{server.port}" for i, server in enumerate(servers)
        }
        configured = {**hosts_of(number), **members, "safe": "failover:m0,m1"}
        with override_settings(EMAIL_HOSTS=configured):
            assert get_connection("safe").send_messages([message()]) == 1
            first = parses.call_count
            assert get_connection("safe").send_messages([message(), message()]) == 2
            assert (first, parses.call_count) == (3, 3)

    @numbers
    def test_of_the_router(self, number, parses, serve):
        configured = {**hosts_of(number), "default": f"smtp://127.0.0.1:{serve().port}"}
        with override_settings(EMAIL_HOSTS=configured):
            for _ in range(3):
                RoutingBackend().send_messages([message("x@elsewhere.example")])
            assert parses.call_count == number + 1

    @numbers
    def test_of_mailers_is_one_for_each_host(self, number, parses):
        mailers(hosts_of(number))
        assert parses.call_count == number

    def test_of_check_are_in_proportion(self, parses):
        counts = []
        for number in (10, 1000):
            parses.reset_mock()
            with override_settings(EMAIL_HOSTS=hosts_of(number)):
                assert run_checks(tags=["email_hosts"]) == []
            counts.append(parses.call_count)
        assert counts[1] == 100 * counts[0]

    @needs_mailers
    def test_of_mailers_in_the_settings(self, parses):  # pragma: mailers-only
        configured = hosts_of(10)
        with override_settings(EMAIL_HOSTS=configured, MAILERS=mailers(configured)):
            parses.reset_mock()
            for _ in range(5):
                get_connection("shop-3")
            assert parses.call_count <= 1


class TestWalks:
    """Nothing but the first look at a sender walks over all hosts."""

    class Hosts(dict[str, str]):
        walks = 0

        def items(self) -> Any:  # pragma: no cover (nobody should)
            self.walks += 1
            return super().items()

        def __iter__(self):
            self.walks += 1
            return super().__iter__()

    def test_of_choosing_a_host(self):
        configured = self.Hosts(hosts_of(10))
        with override_settings(EMAIL_HOSTS=configured):
            for _ in range(10):
                host_of_sender(message("shop@3.example"))
                host_of_sender(message("nobody@elsewhere.example"))
                get_connection("shop-3")
                get_connection("shop-3", timeout=5)
        assert configured.walks == 1

    @pytest.mark.parametrize("is_strict", [True, False])
    def test_unknown_key_names_some_of_many_hosts(self, is_strict, caplog):
        lengths = []
        for number in (20, MANY):
            with override_settings(EMAIL_HOSTS=hosts_of(number), EMAIL_HOSTS_STRICT=is_strict):
                try:
                    get_connection("nobody")
                except EmailHostDoesNotExist as error:
                    lengths.append(len(str(error)))
                else:
                    lengths.append(len(caplog.messages[-1]))
            hosts._warn_of_default.cache_clear()
        assert lengths[0] == lengths[1] < 400


class TestChanges:
    """What is known is what the setting says now."""

    def test_mistake_in_the_same_dict(self):
        configured = {"shop": "smtp://a"}
        with override_settings(EMAIL_HOSTS=configured):
            get_connection("shop")
            configured["shop"] = "smtp://a?timout=5"
            for _ in range(2):
                with pytest.raises(InvalidEmailHost, match="timout"):
                    get_connection("shop")
            configured["shop"] = ""
            assert hosts.find("shop") is None
            del configured["shop"]
            assert hosts.find("shop") is None

    def test_other_dict(self):
        for host in ("a", "b"):
            dsn = f"smtp://{host}?_default_from_email={host}@{host}.example"
            with override_settings(EMAIL_HOSTS={host: dsn}):
                assert host_of_sender(message("a@a.example")) == ("a" if host == "a" else None)
                assert host_of_sender(message("b@b.example")) == ("b" if host == "b" else None)
        assert host_of_sender(message("shop@example.com")) == "shop"

    def test_what_a_connection_changes_is_its_own(self):
        with override_settings(
            EMAIL_HOSTS={"safe": "failover:a,b", "a": "smtp://a", "b": "smtp://b"}
        ):
            for _ in range(2):
                connection: Any = get_connection("safe")
                assert connection.hosts == ("a", "b")
                connection.hosts = ("b",)


class TestSenders:
    """The same address first, then the first host with the same domain."""

    HOSTS = {
        "empty": "",
        "none": None,
        "broken": "smpt://h?_default_from_email=first@example.com",
        "plain": "smtp://h",
        "first": "smtp://h?_default_from_email=The First <First@Example.com>",
        "again": "smtp://h?_default_from_email=first@example.com",
        "second": "smtp://h?_default_from_email=second@example.com",
        "idn": "smtp://h?_default_from_email=info@bücher.example",
        "console": "console:?_default_from_email=c@console.example",
        "server": "smtp://h?_server_email=s@server.example",
    }

    @pytest.mark.parametrize(
        ("sender", "key"),
        [
            ("first@example.com", "first"),
            ("FIRST@EXAMPLE.COM", "first"),
            ("Somebody <first@example.com>", "first"),
            ("second@example.com", "second"),
            ("third@example.com", "first"),
            ("x@bücher.example", "idn"),
            ("info@xn--bcher-kva.example", "idn"),
            ("x@BÜCHER.example", "idn"),
            ("c@console.example", "console"),
            ("s@server.example", None),
            ("x@sub.example.com", None),
            ("nonsense", None),
            ("", None),
            (None, None),
            ("a@" + "x" * 500, None),
            ("a@b..example", None),
        ],
    )
    def test_pick_the_host(self, sender, key):
        one = message("x@y.example")
        one.from_email = sender
        with override_settings(EMAIL_HOSTS=self.HOSTS):
            assert host_of_sender(one) == key


class TestMemory:
    """Whatever a stranger can vary leaves no more than a bounded rest."""

    def grown(self, act, times):
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

    def test_of_unknown_keys(self):
        """1,024 are remembered, without the list of the hosts that there are."""
        logger = logging.getLogger("email_hosts")
        with override_settings(EMAIL_HOSTS=hosts_of(MANY)):
            try:
                logger.disabled = True  # caplog keeps the records
                grown = self.grown(lambda number: get_connection(f"unknown-{number}"), 1500)
            finally:
                logger.disabled = False
        assert grown < 1_000_000
        assert hosts._warn_of_default.cache_info().currsize == 1024

    @pytest.mark.parametrize("rest", ["", "?timout=5"])
    def test_of_dsns(self, rest):
        def act(number):
            try:
                connection_from_dsn(f"smtp://u{number}:{'p' * 4000}@h{rest}")
            except InvalidEmailHost:
                assert rest

        grammar._parse.cache_clear()
        with real_hosts():
            assert self.grown(act, 1000) < 256 * 16_000
        assert grammar._parse.cache_info().currsize <= 256

    def test_of_senders(self):
        with override_settings(EMAIL_HOSTS=hosts_of(10)):
            grown = self.grown(
                lambda number: host_of_sender(message(f"{number}@{number}.example")), 3000
            )
        assert grown < 100_000

    def test_of_servers_that_take_nothing_ahead(self):
        for number in range(5000):
            pipelining._remember(f"h{number}:25")
        assert len(pipelining._without_writing_ahead) <= 1000
