"""System checks, one by one and through manage.py."""

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

PASSWORD = "Wj4bYt2"
DSN = f"smtp://Kx7vQz9:{PASSWORD}@h"
FAILOVER = "email_hosts.backends.FailoverBackend"
ROUTER = "email_hosts.backends.RoutingBackend"
ROUTED: dict[str, Any] = (
    {"MAILERS": {"default": {"BACKEND": ROUTER}}}
    if DJANGO_HAS_MAILERS
    else {"EMAIL_BACKEND": ROUTER}
)
DJANGO = "django.core.mail.backends"
SENDER = "?_default_from_email=s@example.com"

pytestmark = pytest.mark.filterwarnings("ignore:The EMAIL_[A-Z]+ setting is deprecated")


@pytest.fixture
def outside_of_tests(monkeypatch):
    """No test environment is set up."""
    monkeypatch.setattr(conf, "tests_are_running", lambda: False)


class Subclass(EmailHostsReporterFilter):
    """A filter that a project might choose."""


class Other(SafeExceptionReporterFilter):
    """One that knows nothing of hosts."""


def found(hosts, *, deploy=False, **settings):
    """Return id and text of what the checks find in these hosts."""
    with override_settings(EMAIL_HOSTS=hosts, **settings):
        messages = run_checks(tags=[checks.TAG], include_deployment_checks=deploy)
    assert all(message.hint or "did you mean" in message.msg for message in messages)
    return [
        (str(message.id).removeprefix("email_hosts."), message.msg) for message in messages
    ]


LOCAL = "django.core.cache.backends.locmem.LocMemCache"


@pytest.mark.parametrize(
    ("cache", "rate", "expected"),
    [
        (None, "30/m", ["W011"]),
        ("local", "30/m", ["W011"]),
        ("dummy", "30/m", ["W011"]),
        ("redis", "30/m", []),
        (None, "", []),
    ],
)
def test_w011_rate_that_each_process_counts_for_itself(cache, rate, expected):
    backends = {
        "local": LOCAL,
        "dummy": "django.core.cache.backends.dummy.DummyCache",
        "redis": "django.core.cache.backends.redis.RedisCache",
    }
    caches = {"default": {"BACKEND": LOCAL}}
    caches |= {
        name: {"BACKEND": path, "LOCATION": "redis://h"} for name, path in backends.items()
    }
    messages = found(
        {"shop": f"smtp://h?rate={rate}" if rate else "smtp://h"},
        deploy=True,
        CACHES=caches,
        EMAIL_HOSTS_CACHE=cache,
    )
    assert ids(messages) == expected


def ids(messages):
    return [name for name, _ in messages]


def test_good_hosts_are_no_news():
    assert found({"shop": "submissions://u:p@h", "local": "smtp://localhost"}) == []


@pytest.mark.parametrize("hosts", [["smtp://h"], "smtp://h", None])
def test_e001_no_dict(hosts):
    name = type(hosts).__name__
    assert found(hosts) == [("E001", f"EMAIL_HOSTS must be a dict of DSN strings, not {name}")]
    assert ids(found(hosts, deploy=True)) == ["E001"]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (1, '"1"]: the key of a host must be a string, not int'),
        (DSN.encode(), '"(a DSN)"]: the key of a host must be a string, not bytes'),
        ((DSN,), '"(a DSN)"]: the key of a host must be a string, not tuple'),
        (DSN, '"(a DSN)"]: the key of a host must not be a DSN; give the DSN '),
    ],
)
def test_e001_key_that_is_no_key(key, problem):
    hosts = {key: "smtp://u:p@localhost", "shop": "smtp://h"}
    ((number, text),) = found(hosts, deploy=True)
    assert number == "E001"
    assert text.startswith(f"EMAIL_HOSTS[{problem}")


def test_e002_each_invalid_host_at_once():
    hosts = {"a": "smpt://u:Kx7vQz9@h", "b": 5, "c": "smtp://h", "d": "smtp://h?timeout=0"}
    messages = found(hosts)
    assert ids(messages) == ["E002"] * 3
    assert [text.partition(":")[0] for _, text in messages] == [
        f'EMAIL_HOSTS["{key}"]' for key in "abd"
    ]
    assert "Kx7vQz9" not in str(messages)


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


class HasARegion(EmailHostsBackend):
    def __init__(self, region, **options):  # pragma: no cover (there is no region)
        super().__init__(f"smtp.{region}.example.com", **options)


CHOOSY = f"backend://{__name__}.Choosy"


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        (CHOOSY, "'color'"),
        (f"{CHOOSY}?colour=red", "'colour'"),
        (f"{CHOOSY}?color=red&size=5", "'size'"),
        (f"{CHOOSY}?color={{}}", "the backend raised AttributeError: 'dict' object"),
        ("anymail+mailgun://?sender_domain=example.com", "api_key"),
        (f"backend://{FAILOVER}", "write failover:shop,spare or roundrobin:shop,spare"),
    ],
)
def test_e002_option_that_a_backend_refuses(dsn, reason):
    ((name, text),) = found({"shop": dsn})
    assert name == "E002"
    assert text.startswith('EMAIL_HOSTS["shop"]: ')
    assert reason in text.lower() or reason in text
    assert found({"shop": f"{CHOOSY}?color=red"}) == []


def test_host_that_tests_capture_is_built_too(monkeypatch):
    monkeypatch.setattr(test_mode, "captures", lambda host: True)
    assert ids(found({"shop": CHOOSY})) == ["E002"]


@pytest.mark.parametrize(
    ("path", "dsn", "hint"),
    [
        ("anymail.backends.mailgum", "anymail+mailgum:", "did you mean 'anymail+mailgun'?"),
        ("anymail.backends.xyz", "anymail+xyz:", ""),
        ("no.such", "backend://no.such.EmailBackend", ""),
    ],
)
def test_e003_backend_that_cannot_be_imported(path, dsn, hint):
    ((name, text),) = found({"shop": dsn})
    assert name == "E003"
    problem = f"EMAIL_HOSTS[\"shop\"]: backend '{path}.EmailBackend' cannot be imported: "
    assert text.startswith(problem)
    assert text.endswith(hint)
    assert "pip install" not in text


def test_e003_provider_that_is_not_installed():
    ((name, text),) = found({"shop": "anymail+amazon-ses:"})
    assert name == "E003"
    assert "; python -m pip install 'django-anymail[amazon-ses]' 'Django~=" in text


@pytest.mark.parametrize(
    ("hosts", "problem"),
    [
        ({"all": "failover:nobody"}, 'names hosts that do not exist: "nobody".'),
        ({"all": "failover:a", "a": ""}, 'names hosts that do not exist: "a".'),
        ({"all": "failover:a,b"}, 'names hosts that do not exist: "a", "b".'),
        ({"all": "failover:all"}, "leads back to itself: all -> all."),
        (
            {"all": f"backend://{__name__}.Several?hosts=nobody"},
            'names hosts that do not exist: "nobody".',
        ),
        ({"all": f"backend://{ROUTER}"}, "sends through the router"),
        ({"all": f"backend://{ROUTER}?_server_email=a@b"}, "sends through the router"),
    ],
)
def test_e004_missing_or_cyclic_host(hosts, problem):
    (text,) = (text for name, text in found(hosts) if name == "E004")
    assert text.startswith(f'EMAIL_HOSTS["all"] {problem}')


def test_e004_longer_cycle_is_told_for_each_host_in_it():
    cycle = {
        "a": "failover:b",
        "b": "roundrobin:c?_server_email=x@example.com",
        "c": "failover:a",
    }
    others = {"d": "failover:a", "e": "smtp://h", "f": "failover:e,smpt", "smpt": "smpt://h"}
    errors = [text for name, text in found({**others, **cycle}) if name == "E004"]
    assert errors == [
        f'EMAIL_HOSTS["{way[0]}"] leads back to itself: {" -> ".join(way)}.'
        for way in ("abca", "bcab", "cabc")
    ]


NOT_CALLABLE = "EMAIL_HOSTS_ROUTER must be a callable or the path of one: "


@pytest.mark.parametrize(
    ("router", "problem"),
    [
        ("no.such.router", "EMAIL_HOSTS_ROUTER cannot be imported: No module named 'no'"),
        ("no.such.router", "No module named 'no'; its path must be like shop.mail.router, a"),
        (5, NOT_CALLABLE),
        ("email_hosts.smtp.pool.MAX_PARKED", NOT_CALLABLE),
    ],
)
def test_e005_router_that_cannot_be_imported_or_called(router, problem):
    ((name, text),) = found({}, EMAIL_HOSTS_ROUTER=router)
    assert name == "E005"
    assert problem in text


@pytest.mark.parametrize("router", [found, "email_hosts.registry.host_of_sender"])
def test_router_that_can_be_called_is_no_news(router):
    assert found({}, EMAIL_HOSTS_ROUTER=router) == []


@pytest.mark.parametrize("empty", ["", None])
def test_w001_empty_host(empty):
    assert found({"shop": empty}) == [
        ("W001", 'EMAIL_HOSTS["shop"] is empty, as if there were no such host.')
    ]


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("smtp://u:p@mail.example.com", ["W002"]),
        ("submission://u:p@mail.example.com?tls=0", ["W002"]),
        ("smtp://u:p@192.0.2.1", ["W002"]),
        ("smtp://u:p@localhost.example.com", ["W002"]),
        ("smtp://u:p@mail.example.com?tls", []),
        ("submissions://u:p@mail.example.com", []),
        ("smtp://mail.example.com", []),
        ("smtp://u:p@localhost", []),
        ("smtp://u:p@mail.localhost", []),
        ("smtp://u:p@127.1.2.3", []),
        ("smtp://u:p@[::1]", []),
    ],
)
def test_w002_login_without_tls(dsn, expected):
    assert ids(found({"shop": dsn}, deploy=True)) == expected
    assert found({"shop": dsn}) == []


@pytest.mark.parametrize(
    ("chosen", "expected"), [(EmailHostsReporterFilter, []), (Subclass, []), (Other, ["W003"])]
)
def test_w003_filter_that_shows_secrets(chosen, expected):
    path = f"{chosen.__module__}.{chosen.__name__}"
    assert ids(found({}, deploy=True, DEFAULT_EXCEPTION_REPORTER_FILTER=path)) == expected


@pytest.mark.parametrize(
    "dsn", ["console://", "locmem://", "dummy:", "file:out", "console://?_server_email=a@b"]
)
def test_w004_host_that_sends_nothing(dsn):
    assert ids(found({"shop": dsn}, deploy=True)) == ["W004"]
    assert found({"shop": dsn}) == []


REDIRECTS = "_redirect_to=qa@example.com"


@pytest.mark.parametrize("dsn", ["smtp://h?", "anymail+mailgun://?api_key=K&", "failover:b?"])
def test_w009_host_that_redirects(dsn):
    hosts = {"a": dsn + REDIRECTS, "b": f"smtp://h?{REDIRECTS}", "c": "smpt://h"}
    messages = found(hosts, deploy=True)
    assert [message for message in messages if message[0] == "W009"] == [
        ("W009", f'EMAIL_HOSTS["{key}"] redirects its mail, so the recipients do not get it.')
        for key in "ab"
    ]
    assert ids(found(hosts)) == ["E002"]


@needs_mailers
@pytest.mark.parametrize(
    ("options", "number", "problem"),
    [
        (
            {"host": "h", "timout": 5},
            "E002",
            ": unknown option 'timout'; did you mean 'timeout'?",
        ),
        (
            {"BACKEND": FAILOVER, "hosts": "a"},
            "E004",
            ' names hosts that do not exist: "a".',
        ),
        ({"BACKEND": FAILOVER, "hosts": "m"}, "E004", " leads back to itself: m -> m."),
        ({"BACKEND": ROUTER, "hosts": "a"}, "E002", ": unknown option 'hosts'; known opti"),
        ({"BACKEND": ROUTER, "other": "a"}, "E002", ": unknown option 'other'"),
        ({"host": "h", "port": 465}, "W007", " has port 465, where a server expects TLS"),
        (
            {"host": "smtp.office365.com", "username": "u", "password": "p", "use_tls": True},
            "W008",
            " has a password for smtp.office365.com. ",
        ),
        (
            {"host": "h", "username": "u", "password": "p"},
            "W002",
            " sends its user name and pas",
        ),
    ],
)
def test_mailers_with_our_backends_are_checked(
    options, number, problem
):  # pragma: mailers-only
    options = {"BACKEND": SMTP_BACKEND, **options}
    mailer = {"BACKEND": options.pop("BACKEND"), "OPTIONS": options}
    ((found_number, text),) = found({}, MAILERS={"m": mailer}, deploy=True)
    assert found_number == number
    assert text.startswith(f'MAILERS["m"]{problem}')
    assert "others" not in text


@needs_mailers
@pytest.mark.parametrize("hosts", [{}, {"shop": "submissions://h"}])
def test_e001_dsn_in_mailers(hosts):  # pragma: mailers-only
    settings: Any = {"EMAIL_HOSTS": hosts, "MAILERS": {"shop": "submissions://h"}}
    ((number, text),) = found(hosts, MAILERS=settings["MAILERS"], deploy=True)
    assert number == "E001"
    assert text.startswith(
        "each entry of MAILERS must be a dict, not str; write MAILERS = mai"
    )
    with override_settings(**settings):
        with pytest.raises(InvalidEmailHost) as caught:
            get_connection("shop")
        with pytest.raises(CommandError) as shown:
            call_command("checkemailhosts")
    assert str(caught.value) == str(shown.value) == text


@needs_mailers
def test_check_makes_no_folder_of_a_mailer(tmp_path):  # pragma: mailers-only
    file = "file:" + str(tmp_path / "out") + "?_default_from_email=a@example.com"
    assert found({}, MAILERS=mailers({"m": file})) == []
    assert list(tmp_path.iterdir()) == []


@needs_mailers
def test_w009_and_w010_in_mailers_too():  # pragma: mailers-only
    smtp = "email_hosts.backends.EmailHostsBackend"
    mailers = {
        "a": {"BACKEND": smtp, "OPTIONS": {"host": "h", "redirect_to": "qa@example.com"}},
        "b": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"},
        "c": {"OPTIONS": {"host": "h"}},
        "d": {"BACKEND": "django.core.mail.backends.console.EmailBackend"},
    }
    messages = dict(found({"e": f"smtp://h?{REDIRECTS}"}, MAILERS=mailers, deploy=True))
    assert messages == {
        "W009": 'MAILERS["a"] redirects its mail, so the recipients do not get it.',
        "W010": 'EMAIL_HOSTS["e"] redirects its mail, and others do not: MAILERS["b"], '
        'MAILERS["c"].',
    }


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"b": "smtp://h"}, ["b"]),
        ({"b": "submission://h", "c": f"smtp://h?{REDIRECTS}", "d": "smtps://h"}, ["b", "d"]),
        ({"b": "anymail+mailgun://?api_key=K&sender_domain=x"}, ["b"]),
        ({"b": "anymail+mailgun://?api_key=K&sender_domain=x&_reply_to=a@b.example"}, ["b"]),
        ({"b": f"backend://{__name__}.HasItsOwnServer"}, ["b"]),
        ({"b": f"smtp://h?{REDIRECTS}&_allowed_recipients=example.org"}, []),
        ({"b": "console:", "c": "file:out", "d": "dummy:", "e": "locmem:"}, []),
        ({"b": "failover:a", "c": ""}, []),
    ],
)
def test_w010_host_that_somebody_has_forgotten(others, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hosts = {"a": f"smtp://h?{REDIRECTS}", **others}
    names = ", ".join(f'EMAIL_HOSTS["{key}"]' for key in expected)
    problem = f'EMAIL_HOSTS["a"] redirects its mail, and others do not: {names}.'
    assert [text for name, text in found(hosts) if name == "W010"] == [problem][
        : len(expected)
    ]


def test_w010_names_the_first_of_many():
    hosts = {"a": f"smtp://h?{REDIRECTS}", **{f"h{i}": "smtp://h" for i in range(11)}}
    ((_, text),) = found(hosts)
    assert text.endswith('EMAIL_HOSTS["h9"] and others.')


@needs_mailers
def test_w005_host_that_a_mailer_hides():  # pragma: mailers-only
    hosts = {"shop": "smtp://h", "club": "smtp://h", "default": "smtp://h"}
    console = {"BACKEND": "django.core.mail.backends.console.EmailBackend"}
    mailers_too = {**mailers(hosts), "default": console}
    assert found(hosts, MAILERS=mailers_too) == [
        ("W005", 'EMAIL_HOSTS["default"] is not used: MAILERS["default"] comes first.')
    ]


class TestW006:
    """The default backend routes, and not all mail has a way to go."""

    @pytest.mark.parametrize("hosts", [{}, {"shop": "smtp://h"}])
    def test_router_without_a_default(self, hosts):
        with override_settings(**ROUTED):
            assert ids(found(hosts)) == ["W006"]
            assert found({"default": "smtp://h"}) == []

    def test_router_of_the_project_may_need_none(self):
        assert found({}, EMAIL_HOSTS_ROUTER=found, **ROUTED) == []

    def test_default_that_is_empty(self):
        assert "W006" in ids(found({"default": ""}, **ROUTED))


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("submission://h:465", ["W007"]),
        ("smtp://h:465", ["W007"]),
        ("submissions://h", []),
        ("submission://h:465?ssl", []),
        ("submission://h:2465", []),
        ("smtps://h:587", ["W007"]),
        ("smtp://h:25?ssl", ["W007"]),
        ("submissions://h:2587", []),
        (f"backend://{__name__}.AnyOption?port=465", []),
    ],
)
def test_w007_port_and_tls_that_do_not_go_together(dsn, expected):
    assert ids(found({"shop": dsn})) == expected


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("submission://u:p@smtp.office365.com", ["W008"]),
        ("submission://u:p@SMTP.Office365.com.", ["W008"]),
        ("submission://u:p@smtp-mail.outlook.com", ["W008"]),
        ("submission://u:p@smtp-legacy.office365.com", ["W008"]),
        (f"backend://{__name__}.AnyOption?host=smtp.office365.com&password=p", []),
        ("submission://u@smtp.office365.com?oauth2=email_hosts.backends.get_connection", []),
        ("submission://smtp.office365.com", []),
        ("submission://u:p@smtp.example.com", []),
    ],
)
def test_w008_password_that_microsoft_switches_off(dsn, expected):
    messages = found({"shop": dsn})
    assert ids(messages) == expected
    assert all("at the end of December 2026" in text for _, text in messages)


def test_deployment_checks_leave_invalid_hosts_to_the_others():
    hosts = {"shop": "smpt://h", "club": "", "debug": "console:"}
    assert ids(found(hosts, deploy=True)) == ["E002", "W001", "W004"]


def test_manage_py_check_shows_them(capsys):
    with (
        override_settings(EMAIL_HOSTS={"a": "smpt://h", "b": ""}),
        pytest.raises(CommandError, match=r"email_hosts\.E002"),
    ):
        call_command("check")
    with override_settings(EMAIL_HOSTS={"b": "smtp://u:p@h"}):
        call_command("check", deploy=True)
    assert "email_hosts.W002" in capsys.readouterr().err


@pytest.mark.parametrize("strict", ["False", 1, None])
def test_e006_strict_that_is_no_boolean(strict):
    name = type(strict).__name__
    assert found({}, EMAIL_HOSTS_STRICT=strict) == [
        ("E006", f"EMAIL_HOSTS_STRICT must be True or False, not {name}.")
    ]


@pytest.mark.parametrize(
    ("cache", "named"),
    [
        ("redis", "redis"),
        ({"LOCATION": f"redis://:{PASSWORD}@h"}, "(a DSN)"),
        (["a"], "['a']"),
    ],
)
def test_e007_cache_that_does_not_exist(cache, named):
    caches = {"default": {"BACKEND": LOCAL}, "fast": {"BACKEND": LOCAL}}
    settings = {"CACHES": caches, "EMAIL_HOSTS_CACHE": cache}
    hosts = {"shop": "smtp://h?rate=30/m"}
    text = f'EMAIL_HOSTS_CACHE must be a key of CACHES, and "{named}" is none.'
    assert found(hosts, **settings, deploy=True) == [("E007", text)]
    assert hint(hosts, **settings) == (
        "Write one of these: default, fast. Or add that one to CACHES."
    )


DSN_IS_NO_PATH = "must be the dotted path of a class, not a DSN; write the DSN in EMAIL_HOSTS"
ROUTE = f'Write EMAIL_BACKEND = "{ROUTER}", and add a host "default" to EMAIL_HOSTS.'


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        (DSN, DSN_IS_NO_PATH),
        ("console:", DSN_IS_NO_PATH),
        (5, "must be the dotted path of a "),
    ],
)
@pytest.mark.parametrize("hosts", [{}, {"default": "smtp://h"}])
def test_e002_email_backend_that_is_no_path(backend, problem, hosts):
    messages = found(hosts, EMAIL_BACKEND=backend)
    texts = [text for name, text in messages if name == "E002"]
    assert len(texts) == 1
    assert texts[0].startswith(f"EMAIL_BACKEND {problem}")
    assert hint(hosts, EMAIL_BACKEND=backend).startswith(ROUTE)
    with (
        override_settings(EMAIL_HOSTS=hosts, EMAIL_BACKEND=backend),
        pytest.raises(InvalidEmailHost, match=f"^EMAIL_BACKEND {problem}") as caught,
    ):
        get_connection("nobody")
    assert PASSWORD not in f"{messages} {caught.value}"


@needs_mailers
@pytest.mark.parametrize("hosts", [{}, {"shop": "smtp://h"}])
@pytest.mark.parametrize(
    ("mailer", "problem"),
    [
        ({"BACKEND": DSN}, f"the backend {DSN_IS_NO_PATH}"),
        ({"BACKEND": "console:"}, f"the backend {DSN_IS_NO_PATH}"),
        ({"BACKEND": 5}, "the backend must be the dotted path of a class, not int"),
        (
            {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": DSN}},
            f"the backend {DSN_IS_NO_PATH}",
        ),
        (
            {"BACKEND": HOST_BACKEND, "OPTIONS": {"backend": [5]}},
            "the backend must be the dotted path of a class, not list",
        ),
    ],
)
def test_e002_backend_that_is_no_path(mailer, problem, hosts):  # pragma: mailers-only
    problem = f'MAILERS["shop"]: {problem}'
    settings: Any = {"MAILERS": {"shop": mailer, "default": mailer}}
    messages = found(hosts, **settings, deploy=True)
    assert ("E002", problem) in messages
    assert len([name for name in ids(messages) if name == "E002"]) == 2
    with override_settings(EMAIL_HOSTS=hosts, **settings):
        with pytest.raises(InvalidEmailHost) as caught:
            get_connection("shop")
        with pytest.raises(InvalidEmailHost) as of_default:
            get_connection("nobody")
        with pytest.raises(CommandError):
            call_command("checkemailhosts")
    assert str(caught.value) == problem
    assert PASSWORD not in f"{messages} {of_default.value}"


def hint(hosts, **settings):
    with override_settings(EMAIL_HOSTS=hosts, **settings):
        return run_checks(tags=[checks.TAG])[0].hint


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["smtp://h"], "Write EMAIL_HOSTS = {"),
        ({"a": {"BACKEND": SMTP_BACKEND}}, "That is an entry of MAILERS: write it there"),
        ({"a": ("smtp://h",)}, "Remove the comma."),
        ({"a": "smtp://u:p/q@h"}, "urllib.parse.quote(password"),
        ({"a": "'smtp://h'"}, ".env file"),
        ({"a": "smtp://h?timeout=0"}, "a table of DSNs"),
        ({"a": "smpt://h"}, ""),
        ({"a": "smtp://h?timeout:5"}, "urllib.parse.quote(password"),
        ({"a": "anymail+mailgn:"}, ""),
        ({"a": f"{CHOOSY}"}, "Those of another backend are in its own doc"),
        ({"a": "submission://u@h?oauth2=no.such"}, "Name a callable, token(username"),
    ],
)
def test_hint_says_what_to_write(hosts, expected):
    assert expected in hint(hosts) if expected else hint(hosts) == ""


@needs_mailers
@pytest.mark.parametrize(
    ("mailers", "expected"),
    [
        ({"a": "smtp://h"}, "Write MAILERS = {**mailers(EMAIL_HOSTS)}"),
        ([], "Write MAILERS = {**mailers(EMAIL_HOSTS)}"),
        ({"a": {"BACKEND": SMTP_BACKEND}}, "a table of DSNs and options"),
    ],
)
def test_hint_for_mailers(mailers, expected):  # pragma: mailers-only
    assert expected in hint({"a": "smtp://h"} if "a" not in mailers else {}, MAILERS=mailers)


@needs_mailers
def test_e002_mailer_that_hides_a_host_is_checked_itself():  # pragma: mailers-only
    mailers = {"a": {"BACKEND": SMTP_BACKEND}, "b": {"OPTIONS": {"_x": 1}}}
    messages = found({"a": "smtp://h", "b": "console:"}, MAILERS=mailers, deploy=True)
    assert messages == [
        ("W005", 'EMAIL_HOSTS["a"] is not used: MAILERS["a"] comes first.'),
        ("E002", "MAILERS[\"a\"]: option 'host' is missing"),
        ("W005", 'EMAIL_HOSTS["b"] is not used: MAILERS["b"] comes first.'),
        ("W014", 'MAILERS has no host of EMAIL_HOSTS, so using="a" is an error.'),
    ]


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (SMTP_BACKEND, "option 'host' is missing"),
        (FAILOVER, "option 'hosts' must name hosts"),
        (HOST_BACKEND, "option 'backend' must name the backend to wrap"),
        (f"{__name__}.Several", "option 'hosts' must name hosts"),
        (f"{__name__}.HasARegion", "HasARegion.__init__() missing 1 required"),
        (f"{__name__}.HasItsOwnServer", ""),
        (ROUTER, ""),
        (f"{DJANGO}.smtp.EmailBackend", ""),
    ],
)
def test_e002_email_backend_of_ours_without_a_host(backend, reason):
    messages = found({"default": "smtp://h"}, EMAIL_BACKEND=backend)
    errors = [text for name, text in messages if name == "E002"]
    assert len(errors) == bool(reason)
    for text in errors:
        start = f"EMAIL_BACKEND, {backend}, is no host without options: "
        assert text.startswith(start + reason)


class TestDefault:
    """W004 and W013: what Django sends its own mail with."""

    @pytest.mark.parametrize(
        ("name", "backend"),
        [
            ("console", "console"),
            ("dummy", "dummy"),
            ("locmem", "locmem"),
            ("filebased", "file"),
            ("smtp", ""),
        ],
    )
    def test_w004_sends_nothing(self, name, backend, outside_of_tests):
        default = f"{DJANGO}.{name}.EmailBackend"
        text = f"The default mailer sends nothing: it is Django's {backend} backend."
        expected = [("W004", text)] if backend else []
        assert found({}, deploy=True, EMAIL_BACKEND=default) == expected
        assert found({}, EMAIL_BACKEND=default) == []

    @needs_mailers
    def test_w004_default_of_mailers_sends_nothing(self):  # pragma: mailers-only
        mailers = {"default": {"BACKEND": f"{DJANGO}.console.EmailBackend"}}
        assert ids(found({}, deploy=True, MAILERS=mailers)) == ["W004"]

    def test_is_that_of_the_tests(self):
        locmem = f"{DJANGO}.locmem.EmailBackend"
        assert found({"default": "smtp://h"}, deploy=True, EMAIL_BACKEND=locmem) == []

    @needs_mailers
    def test_w004_is_told_once(self):  # pragma: mailers-only
        hosts = {"default": "console:"}
        assert found(hosts, MAILERS=mailers(hosts), deploy=True) == [
            ("W004", 'EMAIL_HOSTS["default"] sends nothing: it is a console host.')
        ]
        wrapped = mailers({"default": f"console:{SENDER}"})
        assert found({}, MAILERS=wrapped, deploy=True) == [
            ("W004", 'MAILERS["default"] sends nothing: it is a console host.')
        ]
        assert found({}, MAILERS={}, deploy=True) == []

    @pytest.mark.parametrize("backend", [f"{DJANGO}.smtp.EmailBackend", CHOOSY[10:]])
    def test_w013_is_not_the_host_default(self, backend):
        assert found({"default": "smtp://h"}, EMAIL_BACKEND=backend) == [
            (
                "W013",
                'EMAIL_HOSTS["default"] is not the default of Django: send_mail() and the '
                "like go to EMAIL_BACKEND.",
            )
        ]

    def test_is_the_host_default(self):
        console = f"{DJANGO}.console.EmailBackend"
        assert found({"default": "console:"}, EMAIL_BACKEND=console) == []
        messages = found({"default": "console:"}, EMAIL_BACKEND=console, deploy=True)
        assert messages == [
            ("W004", 'EMAIL_HOSTS["default"] sends nothing: it is a console host.')
        ]
        assert found({"default": "smtp://h"}, EMAIL_BACKEND=ROUTER) == []
        assert ids(found({"default": "smpt://h"}, EMAIL_BACKEND=console)) == ["E002"]

    @needs_mailers
    def test_w013_with_mailers(self):  # pragma: mailers-only
        hosts = {"default": "smtp://h", "shop": "smtp://h"}
        only_shop = mailers({"shop": hosts["shop"]})
        ((name, text),) = found(hosts, MAILERS=only_shop)
        assert name == "W013"
        assert text.endswith('go to MAILERS, which has no "default".')
        assert found(hosts, MAILERS=mailers(hosts)) == []
        assert found(hosts, **ROUTED) == []


@needs_mailers
@pytest.mark.parametrize(
    ("hosts", "mailers", "expected"),
    [
        ({"a": "smtp://h"}, {"default": {}}, ["W014"]),
        ({"a": "smtp://h"}, {}, ["W014"]),
        ({"a": "smtp://h"}, {"a": {}}, ["W005", "W014"]),
        ({"a": "smtp://h"}, {**mailers({"a": "smtp://h"}), "default": {}}, []),
        ({"a": "smtp://h"}, {"own": {"BACKEND": FAILOVER, "OPTIONS": {"hosts": ["a"]}}}, []),
        ({"a": "smtp://h"}, {"x": {"BACKEND": f"{DJANGO}.locmem.EmailBackend"}}, []),
        ({"a": ""}, {"default": {}}, ["W001"]),
        ({}, {"default": {}}, []),
    ],
)
def test_w014_mailers_without_a_host(hosts, mailers, expected):  # pragma: mailers-only
    assert ids(found(hosts, MAILERS=mailers)) == expected


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EMAIL_HOST_STRICT", "EMAIL_HOSTS_STRICT"),
        ("EMAIL_HOSTS_ROUTERS", "EMAIL_HOSTS_ROUTER"),
        ("EMAIL_HOST_CACHE", "EMAIL_HOSTS_CACHE"),
        ("EMAIL_HOSTS_CACHES", "EMAIL_HOSTS_CACHE"),
        ("EMAIL_HOSTS_ROOTER", "EMAIL_HOSTS_ROUTER"),
        ("EMAIL_HOST", ""),  # Django's
        ("EMAILS_HOSTS", ""),  # there is EMAIL_HOSTS
        ("EMAIL_HOSTS_OF_THE_SHOP", ""),
    ],
)
def test_w015_setting_that_is_nearly_ours(name, meant):
    expected = f"The setting {name} has no effect; did you mean '{meant}'?"
    assert found({}, **{name: True}) == ([("W015", expected)] if meant else [])


@pytest.mark.parametrize("name", ["EMAILS_HOSTS", "EMIAL_HOSTS"])
def test_w015_hosts_in_another_setting(name):
    with override_settings(**{name: {}}):
        del django_settings.EMAIL_HOSTS
        (message,) = run_checks(tags=[checks.TAG])
    assert message.msg == f"The setting {name} has no effect; did you mean 'EMAIL_HOSTS'?"


class TestW012:
    """Two hosts have one sender, and the default backend routes."""

    def others(self, hosts, **settings):
        """Return the keys of the hosts that W012 names: the first one, and the others."""
        messages = found({"default": "smtp://h", **hosts}, **ROUTED, **settings)
        return [
            re.findall('EMAIL_HOSTS."([^"]*)"', text)
            for name, text in messages
            if name == "W012"
        ]

    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            ({"a": "smtp://h", "b": "smtp://h"}, [["a", "b"]]),
            ({"a": "smtp://h", "b": "smtp://h", "c": "console:"}, [["a", "b", "c"]]),
            ({"a": "smtp://h", "b": "smtp://h", "all": "failover:b,a"}, []),
            (
                {"a": "smtp://h", "b": "smtp://h", "all": "failover:a,x", "x": ""},
                [["all", "b"]],
            ),
            ({"all": "failover:inner", "inner": "failover:b,a", "a": "smtp://h"}, []),
            ({"a": "failover:b", "b": "failover:a"}, []),
        ],
    )
    def test_names_who_gets_the_mail(self, hosts, expected):
        hosts = {
            key: dsn + SENDER if dsn and "failover" not in dsn else dsn
            for key, dsn in hosts.items()
        }
        assert self.others(hosts) == expected

    def test_names_the_sender(self):
        hosts = {"default": "smtp://h", **dict.fromkeys("ab", f"smtp://h{SENDER}")}
        ((_, text),) = found(hosts, **ROUTED)
        assert text == (
            'EMAIL_HOSTS["a"] gets all mail from s@example.com. Other hosts have the same '
            'sender: EMAIL_HOSTS["b"].'
        )

    def test_spelling_makes_no_difference(self):
        b = "smtp://h?_default_from_email=Shop <S@EXAMPLE.com>"
        assert self.others({"a": f"smtp://h{SENDER}", "b": b}) == [["a", "b"]]

    def test_same_domain_is_no_news(self):
        b = "smtp://h?_default_from_email=other@example.com"
        assert self.others({"a": f"smtp://h{SENDER}", "b": b}) == []

    def test_only_the_default_router_compares_senders(self):
        hosts = dict.fromkeys("ab", f"smtp://h{SENDER}")
        assert self.others(hosts, EMAIL_HOSTS_ROUTER=found) == []
        assert self.others(hosts, EMAIL_HOSTS_ROUTER="no.such") == []
        assert found(hosts) == []
