"""Each example of the README works, and what it says of commands and checks is so."""

import inspect
import re
import sys
from functools import lru_cache
from io import StringIO
from pathlib import Path
from smtplib import SMTPRecipientsRefused
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from conftest import needs_mailers, run_python
from django.core import mail
from django.core.management import call_command
from django.test import override_settings
from django.utils.module_loading import import_string
from docutils import nodes
from docutils.core import publish_doctree
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from scripted import BODY, CLOSE, at

from email_hosts import checks, exceptions, mailers, schemes
from email_hosts.backends import EmailHostsBackend, connection_from_dsn, get_connection
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.exceptions import RateLimited
from email_hosts.hosts import OUTBOX_BACKEND
from email_hosts.options import SMTP_OPTIONS

README = Path(__file__).parent.parent / "README.rst"
# Strict: the smallest mistake in the markup is an error.
STRICT = {"report_level": 1, "halt_level": 1, "syntax_highlight": "none"}
DOCUMENT = publish_doctree(README.read_text(), settings_overrides=STRICT)

pytestmark = pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated")

BLOCKS = [*DOCUMENT.findall(nodes.literal_block)]
PYTHON = [block.astext() for block in BLOCKS if "python" in block["classes"]]
SETTINGS = [block for block in PYTHON if block.startswith("# settings.py")]
OTHERS = [block for block in PYTHON if block not in SETTINGS]
SHELL = [block.astext() for block in BLOCKS if "python" not in block["classes"]]


def the_one(text, blocks=OTHERS):
    (found,) = (block for block in blocks if text in block)
    return found


def run(block, **names):
    """Run the code of a block. Return its names."""
    names = {"__name__": "readme", **names}
    exec(block, names)
    return names


def literals(part=DOCUMENT):
    """Return what stands between double backquotes."""
    return {literal.astext() for literal in part.findall(nodes.literal)}


TABLES = [
    [list(row) for row in table.findall(nodes.row)] for table in DOCUMENT.findall(nodes.table)
]


def rows(*headers):
    """Return the rows of the tables whose first header is one of these."""
    return [row for first, *rows in TABLES if first[0].astext() in headers for row in rows]


def first_column(*headers):
    """Return the literals of the first column of these tables."""
    return {literal for first, *_ in rows(*headers) for literal in literals(first)}


def settings_of(block):
    keys = ("shop", "club") if "EMAIL_HOSTS" in block else ()
    hosts = {key: f"smtp://h?_default_from_email={key}@example.com" for key in keys}
    names = run(block, INSTALLED_APPS=[], DEBUG=True, EMAIL_HOSTS=hosts)
    return {name: value for name, value in names.items() if name.isupper()}


@pytest.fixture(autouse=True)
def shop_mail(monkeypatch):
    """The modules of the project that settings of the README name. One has a router."""
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    module = ModuleType("shop.mail")
    exec(the_one("# shop/mail.py"), vars(module))
    monkeypatch.setitem(sys.modules, "shop.mail", module)
    return module


def test_router_of_the_example(shop_mail):
    news = mail.EmailMessage(headers={"List-Id": "<newsletter.example.com>"})
    assert (shop_mail.router(news), shop_mail.router(mail.EmailMessage())) == ("news", None)


@pytest.mark.parametrize("block", SETTINGS)
def test_settings_are_valid(block, monkeypatch):
    for name in ("SHOP_EMAIL_HOST", "CLUB_EMAIL_HOST"):
        monkeypatch.setenv(name, "smtp://h")
    settings = settings_of(block)
    mailers(settings["EMAIL_HOSTS"])
    left_out = {"INSTALLED_APPS"} if DJANGO_HAS_MAILERS else {"INSTALLED_APPS", "MAILERS"}
    settings = {name: value for name, value in settings.items() if name not in left_out}
    with override_settings(**settings):
        call_command("check", fail_level="WARNING")
        import_string(settings.get("TEST_RUNNER", "django.test.runner.DiscoverRunner"))


# What not every Django has, and what can be done once in a process.
@pytest.mark.parametrize(
    "block", [each for each in OTHERS if not re.search("using=|prometheus_client", each)]
)
def test_code_runs_in_a_project_with_these_hosts(block):
    run(block)


def test_test_of_the_example_passes():
    test = run(the_one("class WelcomeTest"))["WelcomeTest"]
    test.databases = set()
    test("test_shop_says_hello").debug()


@lru_cache  # Celery wants each task but once
def task():
    return run(the_one("from celery import"), __name__="readme.tasks")["send_welcome"]


@pytest.mark.parametrize(
    ("script", "tries", "sent"),
    [
        (at("RCPT", "451 later", "421 later"), 3, True),
        (at("RCPT", *6 * ["451 later"]), 6, False),
        (at("RCPT", "550 no"), 1, False),
        (at(BODY, CLOSE), 1, False),
    ],
)
def test_task_is_retried_if_that_is_safe(script, tries, sent, serve):
    server = serve(script)
    with override_settings(EMAIL_HOSTS={"shop": f"smtp://127.0.0.1:{server.port}"}):
        result = task().apply(["shop", "someone@example.net"])
    assert result.successful() is sent
    assert len(server.accepted) == sent
    assert sum(command.startswith("MAIL") for command in server.commands) == tries


def test_task_is_retried_when_its_turn_comes(monkeypatch):
    error = RateLimited("its limit of 30/m is reached", alias="shop", retry_after=12.5)
    connect = mock.Mock(side_effect=error)
    monkeypatch.setitem(task().run.__globals__, "get_connection", connect)
    arguments = ["shop", "someone@example.net"]
    with mock.patch("celery.app.task.Task.apply_async") as sent:
        task().apply(arguments)
    assert sent.mock_calls == [mock.call(arguments, countdown=12.5)]


MAILERS = settings_of(SETTINGS[0]).get("MAILERS", {})
USING = [block for block in OTHERS if "using=" in block]


@needs_mailers
@pytest.mark.parametrize("block", USING)
def test_code_runs_with_mailers(block, monkeypatch):  # pragma: mailers-only
    sent: list[Any] = []
    monkeypatch.setattr(EmailHostsBackend, "send_messages", lambda *args: sent.append(args))
    with override_settings(MAILERS=MAILERS):
        run(block)
    assert [host.alias for host, _ in sent] == ["shop"]


MESSAGE = '"Hello", "World", None, ["someone@example.net"]'
ARGUMENTS = {
    "EmailMessage": MESSAGE,
    "send_mail": MESSAGE,
    "send_mass_mail": f"[({MESSAGE})]",
    "mail_admins": '"Hello", "World"',
    "mail_managers": '"Hello", "World"',
}


def run_statement(cell):
    """Run the code in a cell of a table, with arguments in the place of the dots."""
    code = cell.astext()
    run(
        code.replace("...", ARGUMENTS.get(code.partition("(")[0], "")),
        **{**vars(mail), "get_connection": get_connection},
        connection_from_dsn=connection_from_dsn,
        messages=[mail.EmailMessage("Hello", "World", to=["someone@example.net"])],
        dsn="smtp://h",
    )


each_move = pytest.mark.parametrize("row", rows("Until now"), ids=lambda row: row[0].astext())


@pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated")
@each_move
def test_what_used_connection_until_now_works(row, mailoutbox):
    run_statement(row[0])
    assert len(mailoutbox) == 1


@needs_mailers
@each_move
def test_what_uses_using_instead_does_the_same(row, mailoutbox):  # pragma: mailers-only
    senders = {"default_from_email": "shop@example.com"}
    mailers = {key: {"BACKEND": OUTBOX_BACKEND, "OPTIONS": senders} for key in MAILERS}
    mailers["tenants"] = {"BACKEND": "email_hosts.backends.RoutingBackend"}
    dsn = "smtp://h?_default_from_email=shop@example.com"
    with override_settings(
        MAILERS=mailers, EMAIL_HOSTS_ROUTER=lambda message: connection_from_dsn(dsn)
    ):
        run_statement(row[1] if literals(row[1]) else row[0])
    (sent,) = mailoutbox
    assert sent.from_email in {"shop@example.com", "root@example.com"}


def test_prometheus_gets_the_seconds_of_each_mail_by_host(message):
    names = run(the_one("prometheus_client"))
    get_connection("shop").send_messages([message, message])
    get_connection("club").send_messages([message])
    shown = generate_latest(names["SECONDS"]).decode()
    counts = re.findall(r'mail_seconds_count\{host="(\w+)"\} (\S+)', shown)
    assert counts == [("shop", "2.0"), ("club", "1.0")]
    assert all(float(each) > 0 for each in re.findall(r"mail_seconds_sum\S+ (\S+)", shown))


def test_opentelemetry_gets_a_span_of_each_mail(message, serve, monkeypatch):
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    names = run(the_one("opentelemetry"))
    assert names  # Django has receivers in weak references
    get_connection("shop").send_messages([message])
    server = serve(at("RCPT", "550 no"))
    hosts = {"shop": f"smtp://127.0.0.1:{server.port}"}
    with override_settings(EMAIL_HOSTS=hosts), pytest.raises(SMTPRecipientsRefused):
        get_connection("shop").send_messages([message])
    told: Any = spans.get_finished_spans()
    assert {(span.name, *span.attributes.items()) for span in told} == {
        ("send mail", ("mail.host", "shop"))
    }
    assert [span.status.description for span in told] == [None, "SMTPRecipientsRefused"]
    assert all(span.start_time < span.end_time for span in told)


def test_table_of_schemes_is_complete():
    shown = {literal.partition(":")[0] for literal in first_column("Scheme")}
    assert shown == {*schemes.SCHEMES, f"{schemes.ANYMAIL}mailgun"}


def test_table_of_options_is_complete_and_has_the_names_in_python():
    names = {option.in_dsn: option.name for option in SMTP_OPTIONS.values() if option.in_dsn}
    assert first_column("Option", "OAuth 2.0") == names.keys()
    assert not first_column("Option") & first_column("OAuth 2.0")
    assert SMTP_OPTIONS.keys() <= literals()
    for in_dsn, in_python, *_ in rows("Option"):
        shown = in_python.astext().partition(",")[0].replace("the same", in_dsn.astext())
        assert shown == names[in_dsn.astext()]


def test_table_of_errors_is_complete():
    classes = dict(inspect.getmembers(exceptions, inspect.isclass))
    ours = {name for name, each in classes.items() if each.__module__ == exceptions.__name__}
    assert first_column("Error") == ours


def test_table_of_checks_is_complete():
    sources = [path.read_text() for path in Path(checks.__file__).parent.glob("*.py")]
    known = {f"{checks.TAG}.{n}" for n in re.findall(r'"([EW]\d{3})"', "".join(sources))}
    assert first_column("Check") == known


def test_table_of_checkemailhosts_looks_like_that():
    out = StringIO()
    with override_settings(EMAIL_HOSTS=settings_of(SETTINGS[0])["EMAIL_HOSTS"]):
        call_command("checkemailhosts", stdout=out)
    real = [line.split()[:-1] for line in out.getvalue().splitlines()]
    shown = [line.split()[: len(real[0])] for line in the_one("HOST ", SHELL).splitlines()]
    assert shown == real


@pytest.mark.slow
def test_demo_prints_what_is_shown():
    def lines(text):
        return [" ".join(line.split()) for line in text.splitlines()]

    printed = iter(lines(run_python("-m", "tools.demo")))
    assert all(line in printed for line in lines(the_one("IS DOWN", SHELL)))  # in this order


def test_first_example_works_when_pasted(start_server, tls, cafile, tmp_path):
    """It is as it stands, but for the address of the servers, and no warning is allowed."""
    server = start_server(context=tls, login=("user", "secret"))
    pasted = re.sub(r"smtp\.example\.\w+", f"127.0.0.1:{server.port}", SETTINGS[0])
    call_command("startproject", "mysite", tmp_path)
    with (tmp_path / "mysite" / "settings.py").open("a") as file:
        file.write(f"\n{pasted}\n")
    script = [
        "from django.core.management import call_command",
        'call_command("check", fail_level="WARNING")',
        'call_command("checkemailhosts", "--connect")',
        'call_command("sendtestemailhosts", "club", "me@example.net")',
        OTHERS[0],
        *(USING[:1] if DJANGO_HAS_MAILERS else []),
    ]
    environment = {"DJANGO_SETTINGS_MODULE": "mysite.settings", "SSL_CERT_FILE": str(cafile)}
    command = ("-W", "error", "manage.py", "shell", "-c", "\n".join(script))
    shown = run_python(*command, cwd=tmp_path, environment=environment)
    assert shown.count("  OK ") == 2 + DJANGO_HAS_MAILERS  # MAILERS has a default
    senders = [mail.sender for mail in server.received]
    assert senders == ["club@example.org", *["shop@example.com"] * len(script[4:])]


def test_ci_runs_the_two_commands_for_a_newcomer():
    first, second = (block for block in SHELL if re.search("-e (demo|py)$", block))
    assert f"({first})\n({second})\n" in README.parent.joinpath(".ci", "run").read_text()
