"""An option does the same in a DSN, in a call and in an entry of ``MAILERS``."""

from itertools import product
from typing import Any, NamedTuple

import pytest
from conftest import needs_mailers
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends import console, dummy
from django.test import override_settings

from email_hosts.backends import connection_from_dsn, get_connection
from email_hosts.dsn import FAILOVER_BACKEND, HOST_BACKEND, SMTP_BACKEND
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.keyword_options import python_name
from email_hosts.options import HEADER_NAME, HOST_OPTIONS, OAUTH2_OPTIONS, SMTP_OPTIONS
from email_hosts.testing import real_hosts

CONSOLE = "django.core.mail.backends.console.EmailBackend"


class Example(NamedTuple):
    """A value in a DSN and the same in Python, and one that does not fit."""

    text: str
    value: Any
    bad: Any


# Each option has to be here.
EXAMPLES = {
    "ssl": Example("1", True, 2),
    "tls": Example("1", True, "maybe"),
    "timeout": Example("2.5", 2.5, "2.5"),
    "ssl_certfile": Example("cert.pem", "cert.pem", None),
    "ssl_keyfile": Example("key.pem", "key.pem", None),
    "ssl_cafile": Example("ca.pem", "ca.pem", None),
    "local_hostname": Example("web.example.com", "web.example.com", "a b"),
    "conn_max_age": Example("60", 60, 0),
    "conn_max_messages": Example("50", 50, None),
    "conn_max_idle": Example("5", 5, 2.5),
    "parallel": Example("4", 4, True),
    "_default_from_email": Example("a@example.com", "a@example.com", 5),
    "_server_email": Example("b@example.com", "b@example.com", ["b@example.com"]),
    "_reply_to": Example("c@example.com", "c@example.com", 5),
    "_envelope_from": Example("d@example.com", "d@example.com", "d"),
    HEADER_NAME: Example("news", {"NAME": "news"}, "news"),
    "_redirect_to": Example("e@example.com", "e@example.com", "e"),
    "_allowed_recipients": Example("example.com", ["example.com"], [5]),
}
MORE = {  # what has to be beside it
    "ssl_keyfile": {"ssl_certfile": "cert.pem"},
    "_allowed_recipients": {"_redirect_to": "e@example.com"},
}
HOSTS = {"shop": "smtp://h", "console": "console:", "all": "failover:shop,console"}
COUNTS = ("conn_max_messages", "conn_max_idle", "parallel")
CAN_BE_BAD = [name for name in EXAMPLES if not name.startswith("ssl_")]


@pytest.fixture(autouse=True)
def hosts_are_real():
    with real_hosts():
        yield


def test_each_option_has_an_example():
    # test_oauth2.py has those that need each other.
    assert EXAMPLES.keys() == {*SMTP_OPTIONS, *HOST_OPTIONS} - OAUTH2_OPTIONS.keys()


def python(name: str) -> dict[str, Any]:
    """Return an option, and what has to be beside it, by their names in Python."""
    more = {python_name(other): value for other, value in MORE.get(name, {}).items()}
    return {python_name(name): EXAMPLES[name].value, **more}


def dsn(name: str) -> dict[str, Any]:
    """Return the same by their names in a DSN."""
    example = EXAMPLES[name]
    return {
        name: example.text if name == HEADER_NAME else example.value,
        **MORE.get(name, {}),
    }


def query(name: str) -> str:
    given = {name: EXAMPLES[name].text, **MORE.get(name, {})}
    return "&".join(f"{option}={text}" for option, text in given.items())


def attributes(connection: Any) -> dict[str, Any]:
    """Return what the options have made of a connection."""
    names = [python_name(name) for name in EXAMPLES]
    return {name: getattr(connection, name, None) for name in ("port", *names)}


class TestCall:
    """``get_connection`` and ``connection_from_dsn``."""

    @pytest.fixture(autouse=True)
    def hosts(self, settings):
        settings.EMAIL_HOSTS = HOSTS

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_takes_an_option_by_either_name(self, name):
        expected = connection_from_dsn(f"smtp://h?{query(name)}", file_options=[*EXAMPLES])
        for options in (dsn(name), python(name)):
            assert attributes(get_connection("shop", **options)) | {"port": 0} == (
                attributes(expected) | {"port": 0}
            )
            assert attributes(connection_from_dsn("smtp://h", **options)) | {"port": 0} == (
                attributes(expected) | {"port": 0}
            )

    @pytest.mark.parametrize("key", ["console", "all"])
    @pytest.mark.parametrize("name", HOST_OPTIONS)
    def test_takes_those_of_any_host_for_any_host(self, name, key):
        for options in (dsn(name), python(name)):
            connection = get_connection(key, **options)
            assert getattr(connection, python_name(name)) == EXAMPLES[name].value

    @pytest.mark.parametrize("name", [name for name in EXAMPLES if python_name(name) != name])
    def test_refuses_one_that_is_given_by_both_names(self, name):
        other = python_name(name)
        with pytest.raises(InvalidEmailHost) as caught:
            get_connection("shop", **{**dsn(name), **python(name)})
        assert str(caught.value) == (
            f"EMAIL_HOSTS[\"shop\"]: options '{name}' and '{other}' are the same one; "
            "give one of them"
        )

    @pytest.mark.parametrize("name", CAN_BE_BAD)
    def test_refuses_a_value_that_does_not_fit(self, name):
        with pytest.raises(InvalidEmailHost) as caught:
            get_connection("shop", **{python_name(name): EXAMPLES[name].bad})
        option = python_name(name)
        assert str(caught.value).startswith(
            f"EMAIL_HOSTS[\"shop\"]: option '{option}' must be"
        )

    @pytest.mark.parametrize("nothing", [None, ""])
    @pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in COUNTS])
    def test_nothing_stands_for_an_option_that_is_not_given(self, name, nothing):
        connection = get_connection("shop", **{name: nothing})
        assert attributes(connection) == attributes(get_connection("shop"))

    @pytest.mark.parametrize("nothing", [None, ""])
    @pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in COUNTS])
    def test_nothing_takes_an_option_of_the_host_away_but_no_redirect(self, name, nothing):
        options: Any = {name: nothing}
        with override_settings(
            EMAIL_HOSTS={"shop": f"smtp://h?{query(name)}", "h": "smtp://h"}
        ):
            connection = get_connection("shop", **options)
            plain = get_connection("h")
        stays = name in ("_redirect_to", "_allowed_recipients", HEADER_NAME)
        expected = EXAMPLES[name].value if stays else getattr(plain, python_name(name))
        assert getattr(connection, python_name(name)) == expected

    @pytest.mark.parametrize("name", ["redirct_to", "_redirct_to", "allowed_recipient"])
    def test_refuses_a_misspelt_redirect_that_a_backend_would_ignore(self, name):
        options: Any = {name: "qa@example.com"}
        with pytest.raises(InvalidEmailHost, match=f"unknown option '{name}'; did you mean"):
            get_connection("console", **options)

    @pytest.mark.parametrize(
        ("dsn", "options", "security", "port"),
        [
            ("submission://h", {"ssl": True}, "ssl", 465),
            ("submission://h:2525", {"ssl": True}, "ssl", 2525),
            ("submission://h", {"ssl": True, "port": 587}, "ssl", 587),
            ("smtp://h", {"tls": True}, "tls", 25),
            ("submissions://h", {"tls": True}, "tls", 465),
            ("submissions://h", {"ssl": False, "tls": True}, "tls", 465),
            ("submission://h", {"tls": False}, None, 587),
            ("smtp://h", {"ssl": False, "tls": False}, None, 25),
            ("smtp://h", {"use_ssl": True}, "ssl", 25),
        ],
    )
    def test_security_is_that_of_a_dsn_with_the_option(self, dsn, options, security, port):
        with override_settings(EMAIL_HOSTS={"shop": dsn}):
            connection: Any = get_connection("shop", **options)
        assert (connection.use_ssl, connection.use_tls, connection.port) == (
            security == "ssl",
            security == "tls",
            port,
        )

    @pytest.mark.parametrize(
        ("given", "other"), list(product(["ssl", "use_ssl"], ["tls", "use_tls"]))
    )
    def test_both_kinds_of_tls_are_an_error(self, given, other):
        with pytest.raises(InvalidEmailHost, match="'use_ssl' and 'use_tls' exclude each"):
            get_connection("shop", **{given: True, other: True})

    def test_leaves_the_options_of_another_backend_alone(self):
        options: Any = {"ssl": "own", "timeout": "own", "redirect": "own"}
        with override_settings(EMAIL_HOSTS={"own": f"backend://{__name__}.Own"}):
            connection: Any = get_connection("own", **options)
        assert connection.options == options

    def test_sender_of_one_call_applies_to_several_hosts(self, new_message, serve):
        server = serve()
        message = new_message()
        hosts = {"shop": f"smtp://127.0.0.1:{server.port}", "all": "failover:shop"}
        with override_settings(EMAIL_HOSTS=hosts):
            connection = get_connection("all", _default_from_email="call@example.com")
            connection.send_messages([message])
        assert [one.sender for one in server.accepted] == ["call@example.com"]
        assert message.from_email == "project@example.com"


class Own(dummy.EmailBackend):
    """A project's backend, whose options have the names of ours."""

    def __init__(self, ssl: str, timeout: str, redirect: str, **others: Any) -> None:
        super().__init__(**others)
        self.options = {"ssl": ssl, "timeout": timeout, "redirect": redirect}


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """Entries of ``MAILERS`` that are written by hand."""

    @staticmethod
    def mailer(settings: Any, path: str, **options: Any) -> Any:
        settings.EMAIL_HOSTS = {}
        settings.MAILERS = {"shop": {"BACKEND": path, "OPTIONS": options}}
        assert type(mail.mailers["shop"]) is type(get_connection("shop"))
        return mail.mailers["shop"]

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_take_each_option_of_a_host(self, name, settings):
        options = {"host": "h", **python(name)}
        expected = connection_from_dsn(f"smtp://h?{query(name)}", file_options=[*EXAMPLES])
        connection = self.mailer(settings, SMTP_BACKEND, **options)
        assert attributes(connection) | {"port": 0} == attributes(expected) | {"port": 0}
        assert connection.alias == "shop"

    @pytest.mark.parametrize("name", HOST_OPTIONS)
    def test_take_those_of_any_host_around_any_backend(self, name, settings):
        connection = self.mailer(settings, HOST_BACKEND, backend=CONSOLE, **python(name))
        assert isinstance(connection, console.EmailBackend)
        assert getattr(connection, python_name(name)) == EXAMPLES[name].value

    def test_take_the_options_of_several_hosts(self, settings):
        options = {"hosts": ["a", "b"], "retry": 2.5, "rotate": True}
        connection = self.mailer(settings, FAILOVER_BACKEND, **options)
        assert {name: getattr(connection, name) for name in options} == (
            options | {"hosts": ("a", "b")}
        )

    @pytest.mark.parametrize(
        ("name", "backend", "options"),
        [
            *((name, SMTP_BACKEND, {"host": "h"}) for name in CAN_BE_BAD),
            *((name, HOST_BACKEND, {"backend": CONSOLE}) for name in HOST_OPTIONS),
        ],
    )
    def test_refuse_a_value_that_does_not_fit(self, name, backend, options, settings):
        option = python_name(name)
        options = {**options, option: EXAMPLES[name].bad}
        self.assert_refused(settings, f"option '{option}' must be ", backend, options)

    @pytest.mark.parametrize(
        ("backend", "options", "reason"),
        [
            (SMTP_BACKEND, {}, "option 'host' is missing"),
            (SMTP_BACKEND, {"host": "h", "tls": True}, "unknown option 'tls'; did you mean '"),
            (
                SMTP_BACKEND,
                {"host": "h", "_default_from_email": "a@example.com"},
                "unknown option '_default_from_email'; did you mean 'default_from_email'?",
            ),
            (
                SMTP_BACKEND,
                {"host": "h", "use_tls": True, "use_ssl": True},
                "options 'use_ssl' and 'use_tls' exclude each other",
            ),
            (FAILOVER_BACKEND, {}, "option 'hosts' must name hosts"),
            (
                FAILOVER_BACKEND,
                {"hosts": "a", "retry": 0},
                "option 'retry' must be a positive",
            ),
            (FAILOVER_BACKEND, {"hosts": "a", "retyr": 1}, "unknown option 'retyr'"),
            (
                "email_hosts.backends.RoutingBackend",
                {"router": "x"},
                "unknown option 'router'",
            ),
            (HOST_BACKEND, {}, "option 'backend' must name the backend to wrap"),
            (HOST_BACKEND, {"backend": "no.such.Backend"}, "backend 'no.such.Backend' cannot"),
            (HOST_BACKEND, {"backend": CONSOLE, "x": 1}, "Unknown options 'x'."),
        ],
    )
    def test_refusal_names_the_mailer_and_the_option(self, backend, options, reason, settings):
        self.assert_refused(settings, reason, backend, options)

    @staticmethod
    def assert_refused(settings: Any, reason: str, path: str, options: Any) -> None:
        """Ask for the mailer as ``using="shop"`` does, and for the host of its key."""
        settings.EMAIL_HOSTS = {}
        settings.MAILERS = {"shop": {"BACKEND": path, "OPTIONS": options}}
        for ask in (mail.mailers.create_connection, get_connection):
            with pytest.raises(ImproperlyConfigured) as caught:
                ask("shop")
            problem = str(caught.value).replace("MAILERS['shop']", 'MAILERS["shop"]')
            assert problem.startswith(f'MAILERS["shop"]: {reason}')
