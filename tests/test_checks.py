"""System checks: what they find in which settings, and what they teach."""

import re
from typing import Any

import pytest
from conftest import needs_mailers
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter

from email_hosts import checks, conf, mailers
from email_hosts.backends import EmailHostsBackend, FailoverBackend, get_connection
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.debug import EmailHostsReporterFilter
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.host import HOST_BACKEND, SMTP_BACKEND
from email_hosts.testmode import test_mode

USER, PASSWORD = "Kx7vQz9", "Wj4bYt2"
DSN = f"smtp://{USER}:{PASSWORD}@h"
FAILOVER = "email_hosts.backends.FailoverBackend"
ROUTER = "email_hosts.backends.RoutingBackend"
ROUTED: dict[str, Any] = (
    {"MAILERS": {"default": {"BACKEND": ROUTER}}}
    if DJANGO_HAS_MAILERS
    else {"EMAIL_BACKEND": ROUTER}
)
DJANGO = "django.core.mail.backends"
SENDER = "?_default_from_email=s@example.com"
H = {"a": "smtp://h"}
REDIRECTS = "_redirect_to=qa@example.com"
OF_DEPLOYMENT = {
    f"email_hosts.{number}" for number in ("W002", "W003", "W004", "W009", "W011")
}

pytestmark = pytest.mark.filterwarnings("ignore:The EMAIL_[A-Z]+ setting is deprecated")


def run(**settings):
    """Return what the checks find, those of deployment last: numbers, texts and hints."""
    with override_settings(**settings):
        found = run_checks(tags=[checks.TAG], include_deployment_checks=True)
        without_deployment = run_checks(tags=[checks.TAG])
    assert without_deployment == [each for each in found if each.id not in OF_DEPLOYMENT]
    assert all(each.hint or "did you mean" in each.msg for each in found)
    texts = [" ".join(f"{each.id} {each.msg} {each.hint}".split()) for each in found]
    assert USER not in str(texts)
    assert PASSWORD not in str(texts)
    return [text.removeprefix("email_hosts.") for text in texts]


def assert_found(expected, hosts, **settings):
    """Compare what the checks find. ``...`` in what is expected stands for any text."""
    found = run(EMAIL_HOSTS=hosts, **settings)
    patterns = [re.escape(each).replace(r"\.\.\.", ".*") for each in expected]
    assert len(found) == len(patterns), found
    for pattern, text in zip(patterns, found, strict=True):
        assert re.match(pattern, text, re.IGNORECASE), text


class Choosy(BaseEmailBackend):
    def __init__(self, *, color, alias=None):
        super().__init__()
        color.upper()


class AnyOption(BaseEmailBackend):
    def __init__(self, **options):
        super().__init__()


class Several(FailoverBackend):
    pass


class HasItsOwnServer(EmailHostsBackend):
    def __init__(self, **options):
        super().__init__("smtp.example.com", **options)


CHOOSY, ANY_OPTION = f"backend://{__name__}.Choosy", f"backend://{__name__}.AnyOption"
IN_2026 = "W008 December 2026"


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        # E002: it is not valid
        (f"smpt://{USER}:{PASSWORD}@h", "E002 did you mean 'smtp'"),
        (5, "E002 int"),
        ({"BACKEND": SMTP_BACKEND}, "E002 dict...MAILERS"),
        (("smtp://h",), "E002 tuple...comma"),
        ("smtp://u:p/q@h", "E002 percent-encode...urllib.parse.quote(password"),
        ("'smtp://h'", "E002 .env"),
        ("smtp://h?timeout=0", "E002 timeout...README"),
        ("smtp://h?timout=5", "E002 did you mean 'timeout'"),
        ("submission://u@h?oauth2=no.such", "E002 oauth2...token(username"),
        # E002: its backend does not take these options
        (CHOOSY, "E002 'color'...documentation"),
        (f"{CHOOSY}?color=red&size=5", "E002 'size'"),
        (f"{CHOOSY}?color={{}}", "E002 AttributeError: 'dict' object"),
        (f"{CHOOSY}?color=red", ""),
        ("anymail+mailgun://?sender_domain=example.com", "E002 api_key"),
        (f"backend://{FAILOVER}", "E002 failover:"),
        # E003: its backend cannot be imported
        ("anymail+mailgum:", "E003 anymail.backends.mailgum...mean 'anymail+mailgun'"),
        ("anymail+ses:", "E003 did you mean 'anymail+amazon-ses'"),
        ("anymail+xyz:", "E003 anymail.backends.xyz"),
        ("anymail+amazon-ses:", "E003 pip install 'django-anymail[amazon-ses]' 'Django~="),
        ("backend://no.such.EmailBackend", "E003 no.such.EmailBackend"),
        # E004: it names hosts that cannot be members
        ("failover:a,b", 'E004 "a", "b"'),
        ("failover:shpo", "E004 did you mean 'shop'?"),
        (f"backend://{__name__}.Several?hosts=nobody", 'E004 "nobody"'),
        ("failover:shop", "E004 shop -> shop"),
        (f"backend://{ROUTER}", "E004 router"),
        (f"backend://{ROUTER}?_server_email=a@b", "E004 router"),
        # W001: it is empty
        ("", "W001 empty"),
        # W002: its login travels without TLS
        ("smtp://u:p@mail.example.com", "W002 TLS...submission://"),
        ("smtp://u:p@localhost.example.com", "W002 TLS"),
        ("submission://u:p@mail.example.com?tls=0", "W002 TLS"),
        ("submissions://u:p@mail.example.com", ""),
        ("smtp://mail.example.com", ""),
        ("smtp://u:p@localhost", ""),
        ("smtp://u:p@127.1.2.3", ""),
        # W004: it sends nothing
        *((dsn, "W004 sends nothing") for dsn in ("console://", "locmem:", "dummy:")),
        ("file:out", "W004 sends nothing"),
        # W007: its port and its TLS do not go together
        ("submission://h:465", "W007 465...submissions://"),
        ("smtps://h:587", "W007 587...submission://"),
        ("smtp://h:25?ssl", "W007 25"),
        ("submission://h:465?ssl", ""),
        ("submission://h:2465", ""),
        (f"{ANY_OPTION}?port=465", ""),
        # W008: it has a password that Microsoft switches off
        ("submission://u:p@smtp.office365.com", IN_2026),
        ("submission://u:p@smtp-legacy.office365.com", IN_2026),
        ("submission://u:p@SMTP.Office365.com.", IN_2026),
        ("submission://u:p@smtp-mail.outlook.com", IN_2026),
        (f"{ANY_OPTION}?host=smtp.office365.com&password=p", ""),
        ("submission://u@smtp.office365.com?oauth2=email_hosts.backends.get_connection", ""),
        ("submission://smtp.office365.com", ""),
        # W009: it redirects
        (f"smtp://h?{REDIRECTS}", "W009 redirects"),
        (f"{ANY_OPTION}?{REDIRECTS}", "W009 redirects"),
        # W011: each process counts for itself
        ("smtp://h?rate=30/m", "W011 each process...EMAIL_HOSTS_CACHE"),
    ],
)
def test_host(dsn, expected):
    number, _, taught = expected.partition(" ")
    assert_found([f'{number} EMAIL_HOSTS["shop"]...{taught}'] if number else [], {"shop": dsn})


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        *(
            (hosts, ["E001 EMAIL_HOSTS must be...Write"])
            for hosts in (["smtp://h"], "x", None)
        ),
        ({1: DSN}, ["E001 ...must be a string, not int"]),
        ({DSN.encode(): DSN}, ['E001 EMAIL_HOSTS["(a DSN)"]...not bytes']),
        ({(DSN,): DSN}, ['E001 EMAIL_HOSTS["(a DSN)"]...not tuple']),
        ({DSN: DSN}, ['E001 EMAIL_HOSTS["(a DSN)"]...must not be a DSN']),
        # All that is wrong is told at once, and the rest is checked.
        (
            {"a": "smpt://h", "b": 5, "c": "smtp://h", "d": "console:"},
            ["E002", "E002", "W004"],
        ),
        ({"all": "failover:a", "a": ""}, ['E004 EMAIL_HOSTS["all"]..."a"', "W001"]),
        ({"all": "failover:a", "a": "smpt://h"}, ["E002"]),
        (
            {"all": f"failover:a?{REDIRECTS}", "a": f"dummy:?{REDIRECTS}"},
            ["W009", *["W..."] * 2],
        ),
    ],
)
def test_hosts(hosts, expected):
    assert_found(expected, hosts)


def test_e004_cycle_is_told_for_each_host_in_it():
    cycle = {"a": "failover:b", "b": f"roundrobin:c{SENDER}", "c": "failover:a"}
    ways = ["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"]
    expected = [f'E004 EMAIL_HOSTS["{way[0]}"]...{way}.' for way in ways]
    assert_found(expected, {"d": "failover:a", "e": "smtp://h", **cycle})


def test_host_that_tests_capture_is_built_too(monkeypatch):
    monkeypatch.setattr(test_mode, "captures", lambda host: True)
    assert_found(["E002"], {"shop": CHOOSY})


def router(message):
    """A router of a project, which nobody asks here."""


async def slow_router(message):
    """Nobody would await it."""


class Subclass(EmailHostsReporterFilter):
    """A filter that a project might choose."""


class Other(SafeExceptionReporterFilter):
    """One that knows nothing of hosts."""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("EMAIL_HOSTS_ROUTER", "no.such.router", ["E005 ...No module named 'no'...shop.mail"]),
        ("EMAIL_HOSTS_ROUTER", 5, ["E005 ...callable"]),
        ("EMAIL_HOSTS_ROUTER", "shop.mail:router", ["E005 ...has dots, and no colon"]),
        ("EMAIL_HOSTS_ROUTER", slow_router, ["E005 ...one argument, and not an async one"]),
        ("EMAIL_HOSTS_ROUTER", lambda: None, ["E005 ...one argument...def router(message)"]),
        ("EMAIL_HOSTS_ROUTER", Choosy, ["E005 ...one argument"]),
        ("EMAIL_HOSTS_ROUTER", dict, []),  # Python does not know what it takes
        ("EMAIL_HOSTS_ROUTER", DSN, ["E005 ...callable"]),
        ("EMAIL_HOSTS_ROUTER", "email_hosts.smtp.pool.MAX_PARKED", ["E005 ...callable"]),
        ("EMAIL_HOSTS_ROUTER", router, []),
        ("EMAIL_HOSTS_ROUTER", "email_hosts.registry.host_of_sender", []),
        *(
            ("EMAIL_HOSTS_STRICT", value, ["E006 EMAIL_HOSTS_STRICT...True or False"])
            for value in ("False", 1, None)
        ),
        ("DEFAULT_EXCEPTION_REPORTER_FILTER", f"{__name__}.Subclass", []),
        ("DEFAULT_EXCEPTION_REPORTER_FILTER", f"{__name__}.Other", ["W003 ...inherit"]),
        ("EMAIL_HOST_STRICT", True, ["W015 ...'EMAIL_HOSTS_STRICT'"]),
        ("EMAIL_HOST_CACHE", True, ["W015 ...'EMAIL_HOSTS_CACHE'"]),
        ("EMAIL_HOSTS_CACHES", True, ["W015 ...'EMAIL_HOSTS_CACHE'"]),
        ("EMAIL_HOSTS_ROOTER", True, ["W015 ...'EMAIL_HOSTS_ROUTER'"]),
        ("EMAIL_HOST", "Django's", []),
        ("EMAILS_HOSTS", "there is EMAIL_HOSTS", []),
        ("EMAIL_HOSTS_OF_THE_SHOP", True, []),
    ],
)
def test_setting(name, value, expected):
    assert_found(expected, {}, **{name: value})


@pytest.mark.parametrize("name", ["EMAILS_HOSTS", "EMIAL_HOSTS"])
def test_w015_hosts_in_another_setting(name):
    with override_settings(**{name: {}}):
        del django_settings.EMAIL_HOSTS
        (message,) = run_checks(tags=[checks.TAG])
    assert message.msg.endswith("'EMAIL_HOSTS'?")


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("locmem.LocMemCache", ["W011"]),
        ("dummy.DummyCache", ["W011"]),
        ("redis.RedisCache", []),
    ],
)
def test_w011_cache_that_is_not_one_for_all_processes(backend, expected):
    cache = {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": "redis://h"}
    hosts = {"shop": "smtp://h?rate=30/m"}
    caches = {"default": cache}
    assert_found(expected, hosts, EMAIL_HOSTS_CACHE="default", CACHES=caches)


@pytest.mark.parametrize(
    ("cache", "named"),
    [
        ("redis-2", "redis-2"),
        ({"LOCATION": f"redis://{USER}:{PASSWORD}@h"}, "(a DSN)"),
        (["a"], "['a']"),
    ],
)
def test_e007_cache_that_does_not_exist(cache, named):
    hosts = {"shop": "smtp://h?rate=30/m"}
    expected = [f'E007 EMAIL_HOSTS_CACHE..."{named}"...default, fast']
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    caches = {"default": local, "fast": local}
    assert_found(expected, hosts, EMAIL_HOSTS_CACHE=cache, CACHES=caches)


@pytest.mark.parametrize(
    ("others", "forgotten"),
    [
        ({"b": "smtp://h"}, ["b"]),
        ({"b": "submission://h", "c": f"smtp://h?{REDIRECTS}", "d": "smtps://h"}, ["b", "d"]),
        ({"b": "anymail+mailgun://?api_key=K&sender_domain=x&_reply_to=a@b.example"}, ["b"]),
        ({"b": f"backend://{__name__}.HasItsOwnServer"}, ["b"]),
        ({"b": f"smtp://h?{REDIRECTS}&_allowed_recipients=example.org"}, []),
        ({"b": "console:", "c": "file:out", "d": "dummy:", "e": "locmem:"}, []),
        ({"b": "failover:a", "c": ""}, []),
    ],
)
def test_w010_host_that_somebody_has_forgotten(others, forgotten):
    found = run(EMAIL_HOSTS={"a": f"smtp://h?{REDIRECTS}", **others})
    named = [re.findall('EMAIL_HOSTS."(.)"', each) for each in found if each[:4] == "W010"]
    assert named == ([["a", *forgotten]] if forgotten else [])


def test_w010_names_the_first_of_many():
    hosts = {"a": f"smtp://h?{REDIRECTS}", **{f"h{i}": "smtp://h" for i in range(11)}}
    assert_found(['W010 ...EMAIL_HOSTS["h9"] and others.', "W009"], hosts)


class TestDefault:
    """What Django sends its own mail with."""

    @pytest.mark.parametrize(
        ("backend", "taught"),
        [
            (SMTP_BACKEND, "'host'...RoutingBackend"),
            (FAILOVER, "'hosts'"),
            (HOST_BACKEND, "'backend'"),
            (f"{__name__}.Several", "'hosts'"),
            ("email_hosts.backend.RoutingBackend", "cannot be imported"),
        ],
    )
    def test_e002_backend_of_ours_without_options(self, backend, taught):
        assert_found([f"E002 EMAIL_BACKEND...{taught}"], {}, EMAIL_BACKEND=backend)

    @pytest.mark.parametrize("hosts", [{}, {"shop": "smtp://h"}])
    @pytest.mark.parametrize("backend", [DSN, "console:", 5])
    def test_e002_backend_that_is_no_path(self, backend, hosts):
        (found,) = run(EMAIL_HOSTS=hosts, EMAIL_BACKEND=backend)
        with (
            override_settings(EMAIL_HOSTS=hosts, EMAIL_BACKEND=backend),
            pytest.raises(InvalidEmailHost, match=r"^EMAIL_BACKEND must be.* path") as caught,
        ):
            get_connection("nobody")
        assert found.startswith(f"E002 {caught.value}")
        assert "RoutingBackend" in found

    @pytest.mark.parametrize(
        ("backend", "expected"),
        [
            (f"{__name__}.Choosy", ["W013 ...EMAIL_BACKEND"]),
            (f"{DJANGO}.smtp.EmailBackend", ['W013 EMAIL_HOSTS["default"]...EMAIL_BACKEND']),
            (f"{DJANGO}.locmem.EmailBackend", []),  # that of the tests
            (ROUTER, []),
        ],
    )
    def test_w013_is_not_the_host_default(self, backend, expected):
        assert_found(expected, {"default": "smtp://h"}, EMAIL_BACKEND=backend)

    @pytest.mark.parametrize("name", ["console", "dummy", "locmem", "filebased", "smtp"])
    def test_w004_sends_nothing(self, name, monkeypatch):
        monkeypatch.setattr(conf, "tests_are_running", lambda: False)
        expected = [] if name == "smtp" else ["W004 The default mailer...EMAIL_BACKEND"]
        assert_found(expected, {}, EMAIL_BACKEND=f"{DJANGO}.{name}.EmailBackend")

    def test_that_sends_nothing_is_told_once(self):
        console = f"{DJANGO}.console.EmailBackend"
        expected = ['W004 EMAIL_HOSTS["default"]']
        assert_found(expected, {"default": "console:"}, EMAIL_BACKEND=console)
        expected = ['E002 EMAIL_HOSTS["default"]', "W004 The default mailer"]
        assert_found(expected, {"default": "smpt://h"}, EMAIL_BACKEND=console)

    def test_w006_router_without_a_default(self):
        assert_found(['W006 ..."default"'], H, **ROUTED)
        assert run(EMAIL_HOSTS={"default": ""}, **ROUTED)[-1].startswith("W006")
        assert_found([], {"default": "smtp://h"}, **ROUTED)

    def test_w016_router_that_nobody_asks(self):
        smtp = f"{DJANGO}.smtp.EmailBackend"
        mailers = {"MAILERS": {"default": {"BACKEND": smtp}}}
        default: Any = mailers if DJANGO_HAS_MAILERS else {"EMAIL_BACKEND": smtp}
        assert_found(["W016 ...RoutingBackend"], {}, EMAIL_HOSTS_ROUTER=router, **default)

    def test_router_of_the_project_may_need_none(self):
        assert_found([], {}, EMAIL_HOSTS_ROUTER=router, **ROUTED)


class TestSenders:
    """Two hosts have one sender, and the default backend routes: W012."""

    def others(self, hosts, **settings):
        """Return the keys of the hosts that W012 names: the first one, and the others."""
        hosts = {
            key: dsn + SENDER if dsn in ("smtp://h", "console:") else dsn
            for key, dsn in hosts.items()
        }
        found = run(EMAIL_HOSTS={"default": "smtp://default", **hosts}, **ROUTED, **settings)
        named = [re.findall('EMAIL_HOSTS."([^"]*)"', each) for each in found if "W012" in each]
        return " ".join(named[0]) if named else ""

    @pytest.mark.parametrize(
        ("hosts", "named"),
        [
            ({"a": "smtp://h", "b": "smtp://h"}, "a b"),
            ({"a": "smtp://h", "b": "smtp://h", "c": "console:"}, "a b c"),
            ({"a": "smtp://h", "b": "smtp://h", "all": "failover:b,a"}, ""),
            ({"a": "smtp://h", "b": "smtp://h", "all": "failover:a,x", "x": ""}, "all b"),
            ({"all": "failover:in", "in": "failover:b,a", "a": "smtp://h"}, ""),
            ({"a": "failover:b", "b": "failover:a"}, ""),
            ({"a": "smtp://h", "b": "smtp://h?_default_from_email=S <S@EXAMPLE.com>"}, "a b"),
            ({"a": "smtp://h", "b": "smtp://h?_default_from_email=other@example.com"}, ""),
        ],
    )
    def test_w012_names_who_gets_the_mail(self, hosts, named):
        assert self.others(hosts) == named

    def test_w012_names_the_sender(self):
        hosts = {"default": "smtp://h", **dict.fromkeys("ab", f"smtp://h{SENDER}")}
        assert_found(['W012 EMAIL_HOSTS["a"]...s@example.com'], hosts, **ROUTED)

    @pytest.mark.parametrize("own", [router, "no.such"])
    def test_only_the_default_router_compares_them(self, own):
        hosts = {"a": "smtp://h", "b": "smtp://h"}
        assert self.others(hosts, EMAIL_HOSTS_ROUTER=own) == ""


def ours(backend=SMTP_BACKEND, **options):
    return {"BACKEND": backend, "OPTIONS": options}


LOGIN = {"username": "u", "password": "p"}
CONSOLE = {"BACKEND": f"{DJANGO}.console.EmailBackend"}


@needs_mailers
class TestMailers:  # pragma: mailers-only
    """What ``MAILERS`` adds, and hides."""

    @pytest.mark.parametrize(
        ("mailer", "expected"),
        [
            (ours(host="h", timout=5), "E002 did you mean 'timeout'"),
            (ours(), "E002 'host'...README"),
            (ours(FAILOVER, hosts="a"), 'E004 "a"'),
            (ours(FAILOVER, hosts="m"), "E004 m -> m"),
            (ours(ROUTER, hosts="a"), "E002 'hosts'"),
            (ours(host="h", port=465), "W007 465"),
            (ours(host="smtp.office365.com", use_tls=True, **LOGIN), IN_2026),
            (ours(host="h", **LOGIN), "W002 TLS"),
        ],
    )
    def test_mailer_with_a_backend_of_ours(self, mailer, expected):
        number, _, taught = expected.partition(" ")
        assert_found([f'{number} MAILERS["m"]...{taught}'], {}, MAILERS={"m": mailer})

    @pytest.mark.parametrize(
        ("hosts", "mailers", "expected"),
        [
            ({}, [], ["E001 MAILERS must be a dict...Write MAILERS"]),
            ({}, {"m": 5}, ['E001 MAILERS["m"]: each entry']),
            ({}, {"m": {"OPTIONS": 5}}, ['E001 MAILERS["m"]: each entry...its OPTIONS']),
            # W004: the default sends nothing
            ({}, {"default": CONSOLE}, ["W004 The default mailer...MAILERS"]),
            ({}, mailers({"default": f"console:{SENDER}"}), ['W004 MAILERS["default"]']),
            ({}, {}, []),
            # W005: a mailer hides a host, and is checked itself
            (
                {"a": "smtp://h", "b": "console:"},
                {"a": ours(), "b": {"OPTIONS": {"_x": 1}}},
                ['W005 ...["a"]', 'E002 MAILERS["a"]', 'W005 ...["b"]'],
            ),
            # W010: a mailer does not redirect
            (
                {"e": f"smtp://h?{REDIRECTS}"},
                {"b": {"BACKEND": f"{DJANGO}.smtp.EmailBackend"}, "c": {}, "d": CONSOLE},
                ["W014", 'W010 EMAIL_HOSTS["e"]...: MAILERS["b"], MAILERS["c"].', "W009"],
            ),
            # W013: the host default is not that of Django
            (
                {"default": "smtp://h", **H},
                mailers(H),
                ['W013 EMAIL_HOSTS["default"]...MAILERS, which has no "default"'],
            ),
            ({"default": "smtp://h", **H}, mailers({"default": "smtp://h", **H}), []),
            # W014: using= knows no host
            (H, {"default": {}}, ['W014 ...using="a"...mailers(EMAIL_HOSTS)']),
            (H, {"a": {}}, ["W005 ...below the last host"]),
            # E003: the path of a backend of ours is misspelt
            (
                {},
                {"m": {"BACKEND": "email_hosts.backends.Router"}},
                ['E003 MAILERS["m"]...email_hosts.backends.Router'],
            ),
            (H, {**mailers(H), "default": {}}, []),
            (H, {"own": ours(FAILOVER, hosts=["a"])}, []),
            (H, {"x": {"BACKEND": f"{DJANGO}.locmem.EmailBackend"}}, []),
            ({"a": ""}, {"default": {}}, ["W001"]),
        ],
    )
    def test_settings_that_do_not_go_together(self, hosts, mailers, expected):
        assert_found(expected, hosts, MAILERS=mailers)

    @pytest.mark.parametrize("hosts", [{}, {"shop": "smtp://h"}])
    @pytest.mark.parametrize(
        ("mailer", "problem"),
        [
            (
                {"BACKEND": DSN},
                "the backend must be...not a DSN; write the DSN in EMAIL_HOSTS",
            ),
            (
                {"BACKEND": "console:"},
                "the backend must be...not a DSN; write the DSN in EMAIL_HOSTS",
            ),
            ({"BACKEND": 5}, "the backend must be...not int"),
            (
                {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": DSN}},
                "the backend must be...not a DSN",
            ),
            (
                {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": [5]}},
                "the backend must be...not list",
            ),
        ],
    )
    def test_e002_backend_that_is_no_path(self, mailer, problem, hosts):
        settings: Any = {"EMAIL_HOSTS": hosts, "MAILERS": {"shop": mailer, "default": {}}}
        found = next(each for each in run(**settings) if each.startswith("E002"))
        pattern = re.escape(f'MAILERS["shop"]: {problem}').replace(r"\.\.\.", ".*")
        with override_settings(**settings):
            with pytest.raises(InvalidEmailHost, match=pattern) as caught:
                get_connection("shop")
            with pytest.raises(CommandError):
                call_command("checkemailhosts")
        assert found.startswith(f"E002 {caught.value}")
        assert PASSWORD not in str(caught.value)

    @pytest.mark.parametrize("hosts", [{}, {"shop": DSN}])
    def test_e001_dsn_in_mailers_is_told_the_same_everywhere(self, hosts):
        settings: Any = {"EMAIL_HOSTS": hosts, "MAILERS": {"shop": DSN}}
        (found,) = run(**settings)
        with override_settings(**settings):
            with pytest.raises(InvalidEmailHost) as caught:
                get_connection("shop")
            with pytest.raises(CommandError) as shown:
                call_command("checkemailhosts")
        assert str(caught.value) == str(shown.value)
        assert found.startswith(f"E001 {caught.value}")
        assert "MAILERS = {**mailers(EMAIL_HOSTS)}" in found

    def test_check_makes_no_folder(self, tmp_path):
        dsn = f"file:{tmp_path / 'out'}{SENDER}"
        assert_found(["W004"], {}, MAILERS=mailers({"m": dsn}))
        assert list(tmp_path.iterdir()) == []


def test_manage_py_check_shows_them(capsys):
    with (
        override_settings(EMAIL_HOSTS={"a": "smpt://h", "b": ""}),
        pytest.raises(CommandError, match=r"email_hosts\.E002"),
    ):
        call_command("check")
    with override_settings(EMAIL_HOSTS={"b": "smtp://u:p@h"}):
        call_command("check", deploy=True)
    assert "email_hosts.W002" in capsys.readouterr().err
