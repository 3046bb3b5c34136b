"""System checks: what they find in which settings, and what they teach."""

import asyncio
import re
from typing import Any

import pytest
from conftest import mailer, needs_mailers
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.mail.backends.base import BaseEmailBackend
from django.test import override_settings

from email_hosts import checks, conf, mailers
from email_hosts.backends import EmailHostsBackend
from email_hosts.host import HOST_BACKEND, SMTP_BACKEND

USER, PASSWORD = "Kx7vQz9", "Wj4bYt2"
DSN = f"smtp://{USER}:{PASSWORD}@h"
FAILOVER = "email_hosts.backends.FailoverBackend"
ROUTER = "email_hosts.backends.RoutingBackend"
DJANGO = "django.core.mail.backends.{}.EmailBackend"
CONSOLE, LOCMEM, SMTP = map(DJANGO.format, ("console", "locmem", "smtp"))
SENDER = "?_default_from_email=s@example.com"
H = {"a": "smtp://h"}
REDIRECTS = "_redirect_to=qa@example.com"
OF_DEPLOYMENT = {f"email_hosts.W{number}" for number in "002 003 004 009 011 019 022".split()}

pytestmark = pytest.mark.filterwarnings("ignore:The EMAIL_[A-Z]+ setting is deprecated")


def run(**settings):
    """Return what the checks find, those of deployment last: numbers, texts and hints."""
    with override_settings(**settings):
        found = run_checks(tags=[checks.TAG], include_deployment_checks=True)
        without_deployment = run_checks(tags=[checks.TAG])
    assert without_deployment == [each for each in found if each.id not in OF_DEPLOYMENT]
    say_it = ("did you mean", "; write ", "; remove ")
    assert all(each.hint or any(part in each.msg for part in say_it) for each in found)
    texts = [" ".join(f"{each.id} {each.msg} {each.hint}".split()) for each in found]
    assert USER not in str(texts)
    assert PASSWORD not in str(texts)
    return [text.removeprefix("email_hosts.") for text in texts]


def assert_found(expected, hosts, name="", **settings):
    """Compare what the checks find with texts, in which ``...`` stands for any text.

    The name of a host, if given, stands behind the number.
    """
    found = run(EMAIL_HOSTS=hosts, **settings)
    expected = [expected] if isinstance(expected, str) else expected
    assert len(found) == len(expected), found
    for each, text in zip(expected, found, strict=True):
        pattern = re.escape(each.replace(" ", f" {name}...", 1) if name else each)
        assert re.match(pattern.replace(r"\.\.\.", ".*"), text, re.IGNORECASE), text


class Choosy(BaseEmailBackend):
    def __init__(self, *, color, alias=None):
        super().__init__()
        color.upper()


class AnyOption(BaseEmailBackend):
    def __init__(self, **options):
        super().__init__()


class OwnWay(EmailHostsBackend):
    send_messages: Any = None


CHOOSY, ANY_OPTION = f"backend://{__name__}.Choosy", f"backend://{__name__}.AnyOption"


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        # E002: it is not valid
        (f"smpt://{USER}:{PASSWORD}@h", "E002 did you mean 'smtp'"),
        ({"BACKEND": SMTP_BACKEND}, "E002 dict...Write a DSN...in MAILERS"),
        (("smtp://h",), "E002 tuple...comma"),
        ("smtp://u:p/q@h", "E002 percent-encode...urllib.parse.quote(password"),
        ("${EMAIL_DSN}", "E002 a variable that is not set...Look where the DSN is set"),
        ("submission://u@h?oauth2=os.path", "E002 oauth2...not callable...token(username"),
        # E002: its backend does not take these options
        (CHOOSY, "E002 'color'...documentation"),
        (f"{CHOOSY}?color={{}}", "E002 AttributeError: 'dict' object"),
        (f"{CHOOSY}?color=red", []),
        # E003: its backend cannot be imported
        ("anymail+mailgum:", "E003 anymail.backends.mailgum...mean 'anymail+mailgun'"),
        ("backend://no.such.EmailBackend", "E003 no.such.EmailBackend"),
        ("backend://tools.demo.settings.X", "E003 cannot be imported: 'SHOP_EMAIL_HOST'"),
        # E004: it names hosts that cannot be members
        ("failover:a,b", 'E004 "a", "b"'),
        ("failover:shpo", "E004 did you mean 'shop'?"),
        (f"backend://{ROUTER}?_server_email=a@b", "E004 router"),
        # W001: it is empty
        ("", "W001 empty"),
        # W002: its login travels without TLS
        ("smtp://u:p@mail.example.com", "W002 TLS...submission://"),
        ("smtp://u:p@127.1.2.3", []),
        # W004: it sends nothing
        *((dsn, "W004 nothing") for dsn in ("console:", "locmem:", "dummy:", "file:out")),
        # W007: its port and its TLS do not go together
        ("submission://h:465", "W007 465...submissions://"),
        ("smtps://h:587", "W007 587...submission://"),
        ("smtps://h?tls", "W007 465...Remove the options 'tls' and 'ssl'"),
        (f"{ANY_OPTION}?port=465", []),
        # W008: it has a password that Microsoft switches off
        ("submission://u:p@SMTP.Office365.com.", "W008 December 2026"),
        (f"{ANY_OPTION}?host=smtp.office365.com&password=p", []),
        ("submission://u@smtp.office365.com?oauth2=email_hosts.backends.get_connection", []),
        # W017: several hosts do not call its send_messages()
        (f"backend://{__name__}.OwnWay?host=h", "W017 send_messages()...apply_host()"),
        # W009: it redirects
        (f"{ANY_OPTION}?{REDIRECTS}", "W009 redirects"),
    ],
)
def test_host(dsn, expected):
    assert_found(expected, {"shop": dsn}, 'EMAIL_HOSTS["shop"]')


R = f"smtp://h?{REDIRECTS}"
ANYMAIL = "anymail+mailgun://?api_key=K&sender_domain=x&_reply_to=a@b.example"
CYCLE = {"a": "failover:b", "b": f"roundrobin:a{SENDER}"}
OF_CYCLE = ["E004 ...a -> b -> a.", "E004 ...b -> a -> b."]
ELEVEN = {f"{number}": "smtp://h" for number in range(11)}
REAL = {"b": "submission://h", "d": "smtps://h"}


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (None, ["E001 EMAIL_HOSTS must be...Write"]),
        ({"news ": "smtp://h"}, ["E001 ...must not begin or end with a space"]),
        ({"all": "failover:a", "a": ""}, ['E004 EMAIL_HOSTS["all"]...: "a". Name', "W001"]),
        ({DSN.encode(): DSN}, ['E001 EMAIL_HOSTS["(a DSN)"]...not bytes']),
        ({7: "smtp://h", "all": "failover:a"}, ["E001 ...not int", "E004"]),
        # All that is wrong is told at once, and the rest is checked.
        ({"b": 5, **H, "c": "smpt://h", "d": "console:"}, ["E002", "E002", "W004"]),
        # A cycle is told for each host in it.
        ({"d": "failover:a", "e": "smtp://h", **CYCLE}, OF_CYCLE),
        # W010: somebody has forgotten to redirect a host that has a server of its own
        ({"a": R, **REAL, "c": "failover:a"}, ['W010 ...: ...["b"], ...["d"].', "W009"]),
        ({"a": R, "b": ANYMAIL}, ['W010 EMAIL_HOSTS["a"]...: EMAIL_HOSTS["b"].', "W009"]),
        ({"a": R, **ELEVEN}, ['W010 ...EMAIL_HOSTS["9"] and others.', "W009"]),
    ],
)
def test_hosts(hosts, expected):
    assert_found(expected, hosts)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("EMAIL_HOSTS_ROUTER", "no.such.router", "E005 ...No module named 'no'...shop.mail"),
        ("EMAIL_HOSTS_ROUTER", "shop.mail:router", "E005 ...has dots, and no colon"),
        ("EMAIL_HOSTS_ROUTER", asyncio.sleep, "E005 ...one argument, and not an async one"),
        ("EMAIL_HOSTS_ROUTER", lambda: None, "E005 ...one argument...def router(message)"),
        ("EMAIL_HOSTS_ROUTER", DSN, "E005 ...callable"),
        ("EMAIL_HOSTS_ROUTER", "email_hosts.registry.host_of_sender", []),
        ("EMAIL_HOSTS_ROUTER", dict, []),  # Python does not know what it takes
        ("EMAIL_HOSTS_STRICT", "False", "E006 EMAIL_HOSTS_STRICT...True or False"),
        ("DEFAULT_EXCEPTION_REPORTER_FILTER", "test_debug.Subclass", []),
        ("DEFAULT_EXCEPTION_REPORTER_FILTER", "test_debug.Filter", "W003 ...inherit"),
        ("EMAIL_HOST_STRICT", True, "W015 ...'EMAIL_HOSTS_STRICT'"),
        ("EMAIL_HOST", {"shop": DSN}, "W015 ...is a dict; did you mean EMAIL_HOSTS"),
        ("EMAIL_HOST", DSN, "W015 ...is a DSN; did you mean EMAIL_HOSTS"),
        ("EMAIL_HOSTS_REDIRECT_TO", "a@b.c", "W015 ...'redirect_to' as an option"),
        ("EMAILS_HOSTS", "there is EMAIL_HOSTS", []),
        ("EMAIL_HOSTS_DEFAULT", "shop", "W015 ...no effect."),
        ("EMAIL_HOSTS_OF_THE_SHOP", {"shop": DSN}, []),
        ("EMAIL_ROUTERS", [], "W015 ...'EMAIL_HOSTS_ROUTER'"),
    ],
)
def test_setting(name, value, expected):
    assert_found(expected, {}, **{name: value})


def test_w015_hosts_in_another_setting():
    with override_settings(EMIAL_HOSTS={}):
        del django_settings.EMAIL_HOSTS
        (message,) = run_checks(tags=[checks.TAG])
    assert message.msg.endswith("'EMAIL_HOSTS'?")


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (None, "W011 ...each process...EMAIL_HOSTS_CACHE"),
        ("local", "W011"),
        ("shared", []),
        ("redis-2", 'E007 EMAIL_HOSTS_CACHE..."redis-2"...local, shared'),
        ({"LOCATION": f"redis://{USER}:{PASSWORD}@h"}, 'E007 ..."(a DSN)"'),
    ],
)
def test_cache_of_rates_is_one_for_all_processes(cache, expected):
    caches = {
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "shared": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
    }
    hosts = {"shop": "smtp://h?rate=30/m"}
    assert_found(expected, hosts, EMAIL_HOSTS_CACHE=cache, CACHES=caches)


D = {"default": "smtp://h"}


@pytest.mark.parametrize(
    ("backend", "hosts", "expected"),
    [
        # E002: a backend of ours without options
        (SMTP_BACKEND, {}, ["E002 EMAIL_BACKEND...'host'...RoutingBackend"]),
        (HOST_BACKEND, {}, ["E002 EMAIL_BACKEND...'backend'"]),
        # E002: it is no path
        ("a", H, ["E002 EMAIL_BACKEND must...not 'a'; to send through a host by its key"]),
        (DSN, H, ["E002 EMAIL_BACKEND must...not a DSN; write the DSN in EMAIL_HOSTS"]),
        ([SMTP], H, ["E002 EMAIL_BACKEND must be the dotted path of a class, not list"]),
        # W004: it sends nothing, and is told of once
        (CONSOLE, H, ["W004 The default mailer...EMAIL_BACKEND"]),  # W020: with DEBUG
        (CONSOLE, {"default": "console:"}, ['W004 EMAIL_HOSTS["default"]']),
        (SMTP, {}, []),
        # W006: a router without a default
        (ROUTER, H, ['W006 ..."default"']),
        (ROUTER, {"default": ""}, ["W001", 'W006 ..."default"']),
        (ROUTER, D, []),
        # E002: its name is misspelt
        ("email_hosts.backends.RouterBackend", H, ["E002 EMAIL_BACKEND: ...did you mean"]),
        # W010: it does not redirect
        (SMTP, {"a": R}, ["W010 ...do not: EMAIL_BACKEND, which Django", "W009", "W022"]),
        # W013: it is not the host "default"
        (SMTP, D, ['W013 EMAIL_HOSTS["default"]...EMAIL_BACKEND']),
        (LOCMEM, D, []),  # that of the tests
        ("conftest.Recorder", D, []),  # a queue, perhaps
    ],
)
def test_default_backend(backend, hosts, expected):
    assert_found(expected, hosts, EMAIL_BACKEND=backend)


def test_w004_default_in_memory_outside_of_tests(monkeypatch):
    monkeypatch.setattr(conf, "tests_are_running", lambda: False)
    assert_found(["W004 The default mailer"], {}, EMAIL_BACKEND=LOCMEM)


def test_w016_router_that_nobody_asks():
    told = {SMTP: "W016 ...RoutingBackend", ROUTER: [], LOCMEM: [], "conftest.Recorder": []}
    for backend, expected in told.items():
        assert_found(expected, {}, EMAIL_HOSTS_ROUTER=dict, EMAIL_BACKEND=backend)


S = f"smtp://h{SENDER}"


@pytest.mark.parametrize(
    ("hosts", "named"),
    [
        ({"a": S, "b": S, "c": f"console:{SENDER}"}, ["a", "b", "c"]),
        ({"a": S, "b": "smtp://h?_default_from_email=S <S@EXAMPLE.com>"}, ["a", "b"]),
        ({"a": S, "b": S, "all": "failover:b,a"}, []),
        ({"a": S, "b": S, "all": "failover:a,x", "x": ""}, ["all", "b"]),
        ({"all": "failover:in", "in": "failover:b,a", "a": S, "b": S}, []),
    ],
)
def test_w012_hosts_with_one_sender(hosts, named):
    """The first one gets the mail, if no router decides. Members of one host may share one."""
    settings = {"EMAIL_HOSTS": {**D, **hosts}, "EMAIL_BACKEND": ROUTER}
    assert "W012" not in str(run(**settings, EMAIL_HOSTS_ROUTER=dict))
    found = run(**settings)
    told = "".join(each for each in found if each.startswith("W012"))
    assert re.findall('EMAIL_HOSTS."([^"]*)"', told) == named
    assert ("gets all mail from s@example.com." in told) == bool(named)


@pytest.mark.parametrize(
    ("default", "settings", "expected"),
    [
        ("smtp://h", {}, 'W019 EMAIL_HOSTS["default"]...root@localhost..._server_email'),
        ("failover:a", {}, "W019"),
        ("smtp://h?_server_email=errors@example.com", {}, []),
        ("smtp://h", {"ADMINS": []}, []),
        ("smtp://h", {"SERVER_EMAIL": "errors@example.com"}, []),
        ("smtp://h", {"EMAIL_BACKEND": SMTP}, "W013"),
    ],
)
def test_w019_sender_of_error_mails(default, settings, expected):
    settings = {"SERVER_EMAIL": "root@localhost", "EMAIL_BACKEND": ROUTER, **settings}
    assert_found(expected, {**H, "default": default}, **settings)


@pytest.mark.parametrize("sender", ["webmaster@localhost", None])
def test_w019_host_without_a_sender(sender):
    told = f'W019 EMAIL_HOSTS["a"]...{sender}..._default_from_email'
    assert_found([told, "W004"], {**H, "b": "console:", "c": S}, DEFAULT_FROM_EMAIL=sender)


B = {"b": "console:"}
NAMED = {"EMAIL_HOST": "h"}
W020 = 'W020 ...console...send all the same: EMAIL_HOSTS["a"].'


@pytest.mark.parametrize(
    ("hosts", "backend", "settings", "expected"),
    [
        ({**H, **B}, CONSOLE, NAMED, [W020, "W004", "W004"]),
        ({**H, **B}, SMTP, NAMED, ["W004"]),
        ({**H, **B}, LOCMEM, NAMED, ["W004"]),
        # The other way round
        (B, SMTP, NAMED, ["W020 No host sends, but...mail.backends.console", "W004"]),
        (B, SMTP, {}, ["W004", "W022"]),
        ({"b": ANY_OPTION}, SMTP, NAMED, []),
        (B, ROUTER, NAMED, ["W006", "W004"]),
        ({}, SMTP, NAMED, []),
    ],
)
def test_w020_backend_of_development_is_not_that_of_hosts(hosts, backend, settings, expected):
    assert_found(expected, hosts, EMAIL_BACKEND=backend, DEBUG=True, **settings)


@pytest.mark.parametrize(
    ("hosts", "settings", "expected"),
    [
        (H, {}, ["W022 ...password resets...RoutingBackend"]),
        (H, {"EMAIL_HOST": "h"}, []),
        (H, {"EMAIL_BACKEND": LOCMEM}, []),
        ({}, {}, []),
    ],
)
def test_w022_mail_of_django_goes_to_nobody(hosts, settings, expected):
    assert_found(expected, hosts, **{"EMAIL_BACKEND": SMTP, **settings})


OPEN = mailer(host="h", username=USER, password=PASSWORD, redirect_to="a@b.c")
THREE = {"b": {"BACKEND": SMTP}, "c": {}, "d": {"BACKEND": CONSOLE}}


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """What ``MAILERS`` adds, and hides."""

    @pytest.mark.parametrize(
        ("mailer", "expected"),
        [
            (DSN, "E001 must be a dict...MAILERS = {**mailers(EMAIL_HOSTS)}"),
            ({"OPTIONS": 5}, "E001 each entry...its OPTIONS a dict of names"),
            (mailer(), "E002 'host'...README"),
            ({"BACKEND": DSN}, "E002 not a DSN; write the DSN in EMAIL_HOSTS"),
            ({"BACKEND": [SMTP_BACKEND]}, "E002 the backend must be...not list"),
            (mailer(HOST_BACKEND, backend=DSN), "E002 the backend must be...not a DSN"),
            ({**mailer(host="h"), "redirect_to": "x"}, "E002 move 'redirect_to' into OPTIONS"),
            ({**mailer(host="h"), "fail_silently": True}, "E002 move 'fail_silently' into"),
            (mailer(host="h", fail_silently=2), "E002 'fail_silently' must be True or False"),
            (mailer(host="h", redirect_to=None), "W018 redirect_to"),
            ({"backend": SMTP_BACKEND}, "E001 write 'BACKEND' for 'backend'"),
            (mailer("email_hosts.backends.Router"), "E003 email_hosts.backends.Router"),
            (mailer(FAILOVER, hosts="m"), "E004 m -> m"),
            (mailer(host="h", port=465), "W007 465...Write 'use_ssl': True in OPTIONS"),
        ],
    )
    def test_mailer(self, mailer, expected):
        assert_found(expected, {}, 'MAILERS["m"]', MAILERS={"m": mailer})

    @pytest.mark.parametrize(
        ("hosts", "mailers", "expected"),
        [
            ({}, [], ["E001 MAILERS must be a dict...Write MAILERS"]),
            # W004: the default sends nothing
            ({}, {"default": {"BACKEND": CONSOLE}}, ["W004 The default mailer...MAILERS"]),
            ({}, {}, []),
            # W005: a mailer hides a host, and is checked itself
            (H, {"a": mailer()}, ['W005 ...["a"]...below the last host', 'E002 MAILERS["a"]']),
            ({"b": "console:"}, {"b": {"OPTIONS": {"_x": 1}}}, ['W005 ...["b"]']),
            # A mailer that is used is looked at for production
            (H, {"a": OPEN}, ["W005", 'W009 MAILERS["a"]', 'W002 MAILERS["a"]']),
            ({"a": R}, mailers(H), ["E008 ...comes first. So its mail is NOT redirected."]),
            ({"a": R}, {"a": OPEN}, ["W005 ...comes first. Rename", "W009", "W002"]),
            (
                {"a": R, "m": R},
                {"a": mailer(FAILOVER, hosts=["m"])},
                ["W005 ...first. Ren", "W009"],
            ),
            # W010: a mailer does not redirect
            ({"e": R}, THREE, ["W014", 'W010 ...: MAILERS["b"], MAILERS["c"].', "W009"]),
            # W013: the host default is not that of Django
            ({**D, **H}, mailers(H), ['W013 ...MAILERS, which has no "default"']),
            ({**D, **H}, mailers({**D, **H}), []),
            # W014: using= knows no host
            (H, {"default": {}}, ['W014 ...using="a"...mailers(EMAIL_HOSTS)']),
            ({**H, "b": "smtp://h"}, mailers(H), ['W014 ...using="b"...below the last host']),
            ({**H, "b": "smtp://h"}, {"a": mailer(host="h")}, ["W005"]),
            (H, {**mailers(H), "default": {}}, []),
            (H, {"own": mailer(FAILOVER, hosts=["a"])}, []),
            ({**H, **D}, {"default": {"BACKEND": ROUTER}}, ["W014"]),
            ({}, {"default": {"BACKEND": ROUTER}}, ["W006"]),
        ],
    )
    def test_settings_that_do_not_go_together(self, hosts, mailers, expected):
        assert_found(expected, hosts, MAILERS=mailers)

    def test_w019_sender_of_error_mails(self):
        own, theirs = mailer(host="h", server_email="errors@example.com"), {"BACKEND": SMTP}
        told = 'W019 MAILERS["default"]...root@localhost'
        for default, expected in ((mailers(D)["default"], told), (own, []), (theirs, [])):
            entries = {"default": default}
            assert_found(expected, {}, MAILERS=entries, SERVER_EMAIL="root@localhost")
