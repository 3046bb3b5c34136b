"""System checks, one by one and through manage.py."""

from typing import Any

import pytest
import speckenv_django
from conftest import needs_mailers
from django.core.checks import run_checks
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter

from email_hosts import checks, mailers
from email_hosts.backends import get_connection
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.debug import EmailHostsReporterFilter
from email_hosts.dsn import SMTP_BACKEND
from email_hosts.exceptions import InvalidEmailHost

DSN = "smtp://Kx7vQz9:Wj4bYt2@h"
FAILOVER = "email_hosts.backends.FailoverBackend"
ROUTER = "email_hosts.backends.RoutingBackend"
ROUTED: dict[str, Any] = (
    {"MAILERS": {"default": {"BACKEND": ROUTER}}}
    if DJANGO_HAS_MAILERS
    else {"EMAIL_BACKEND": ROUTER}
)
Found = list[tuple[str, str]]


class Subclass(EmailHostsReporterFilter):
    """A filter that a project might choose."""


class Other(SafeExceptionReporterFilter):
    """One that knows nothing of hosts."""


def found(hosts, *, deploy=False, **settings):
    """Return id and text of what the checks find in these hosts."""
    with override_settings(EMAIL_HOSTS=hosts, **settings):
        messages = run_checks(tags=[checks.TAG], include_deployment_checks=deploy)
    assert all(message.hint for message in messages)
    return [
        (str(message.id).removeprefix("email_hosts."), message.msg) for message in messages
    ]


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
        (1, "Each key of EMAIL_HOSTS must be a string, not 1."),
        (DSN.encode(), "Each key of EMAIL_HOSTS must be a string, not (a DSN)."),
        ((DSN,), "Each key of EMAIL_HOSTS must be a string, not (a DSN)."),
        (DSN, "EMAIL_HOSTS has a DSN as a key, and it may hold a password."),
    ],
)
def test_e001_key_that_is_no_key(key, problem):
    hosts = {key: "smtp://u:p@localhost", "shop": "smtp://h"}
    assert found(hosts, deploy=True) == [("E001", problem)]


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


CHOOSY = f"backend://{__name__}.Choosy"


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        (CHOOSY, "'color'"),
        (f"{CHOOSY}?colour=red", "'colour'"),
        (f"{CHOOSY}?color=red&size=5", "'size'"),
        (f"{CHOOSY}?color={{}}", "the backend raised AttributeError: 'dict' object"),
        ("anymail+mailgun://?sender_domain=example.com", "api_key"),
        (f"backend://{FAILOVER}", "'hosts'"),
    ],
)
def test_e002_option_that_a_backend_refuses(dsn, reason):
    ((name, text),) = found({"shop": dsn})
    assert name == "E002"
    assert text.startswith('EMAIL_HOSTS["shop"]: ')
    assert reason in text.lower() or reason in text
    assert found({"shop": f"{CHOOSY}?color=red"}) == []


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


@pytest.mark.parametrize("query", ["&", "_server_email=a@example.com"])
def test_e003_backend_of_a_scheme_that_is_not_there(query, monkeypatch):
    monkeypatch.setitem(speckenv_django.INTERESTING_MAIL_BACKENDS, "dummy", "no.such.Backend")
    ((name, text),) = found({"shop": f"dummy://?{query}"})
    assert name == "E003"
    assert "backend 'no.such.Backend' cannot be imported" in text


@pytest.mark.parametrize(
    ("hosts", "problem"),
    [
        ({"all": "failover:nobody"}, 'names "nobody", and there is no such host.'),
        ({"all": "failover:a", "a": ""}, 'names "a", and there is no such host.'),
        ({"all": "failover:a,b"}, 'names "a" and "b", and there are no such hosts.'),
        ({"all": "failover:all"}, "leads back to itself: all -> all."),
        (
            {"all": f"backend://{FAILOVER}?hosts=nobody"},
            'names "nobody", and there is no such',
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
        (5, NOT_CALLABLE),
        ("email_hosts.smtp.pool.MAX_PARKED", NOT_CALLABLE),
    ],
)
def test_e005_router_that_cannot_be_imported_or_called(router, problem):
    ((name, text),) = found({}, EMAIL_HOSTS_ROUTER=router)
    assert name == "E005"
    assert text.startswith(problem)


@pytest.mark.parametrize("router", [found, "email_hosts.backends.routing.host_of_sender"])
def test_router_that_can_be_called_is_no_news(router):
    assert found({}, EMAIL_HOSTS_ROUTER=router) == []


@pytest.mark.parametrize("empty", ["", None])
@pytest.mark.parametrize(
    ("strict", "consequence"),
    [(False, "its mail goes to the default backend"), (True, "using it is an error")],
)
def test_w001_empty_host(empty, strict, consequence):
    assert found({"shop": empty}, EMAIL_HOSTS_STRICT=strict) == [
        ("W001", f'EMAIL_HOSTS["shop"] is empty: {consequence}.')
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
        ("W009", f'EMAIL_HOSTS["{key}"] redirects its mail: people do not get what is theirs.')
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
            ' names "a", and there is no such host.',
        ),
        ({"BACKEND": FAILOVER, "hosts": "m"}, "E004", " leads back to itself: m -> m."),
        ({"BACKEND": ROUTER, "hosts": "a"}, "E002", ": unknown option 'hosts'"),
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
        "W009": 'MAILERS["a"] redirects its mail: people do not get what is theirs.',
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
        ({"b": "backend://django.core.mail.backends.smtp.EmailBackend?host=h"}, ["b"]),
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


@pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")
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
        assert found({"default": ""}, **ROUTED)[0] == (
            "W001",
            'EMAIL_HOSTS["default"] is empty: using it is an error.',
        )


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("submission://h:465", ["W007"]),
        ("smtp://h:465", ["W007"]),
        ("submissions://h", []),
        ("submission://h:465?ssl", []),
        ("submission://h:2465", []),
        (f"backend://{__name__}.AnyOption?port=465", []),
    ],
)
def test_w007_port_for_tls_from_the_first_byte(dsn, expected):
    assert ids(found({"shop": dsn})) == expected


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("submission://u:p@smtp.office365.com", ["W008"]),
        ("submission://u:p@SMTP.Office365.com.", ["W008"]),
        ("submission://u:p@smtp-mail.outlook.com", ["W008"]),
        ("backend://django.core.mail.backends.smtp.EmailBackend?host=smtp.office365.com", []),
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
