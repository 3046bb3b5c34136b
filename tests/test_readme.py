"""Each example of the README works, and what it says of commands and checks is so."""

import ast
import inspect
import re
import sys
from functools import lru_cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import pytest
from conftest import needs_mailers, run_python
from django.core import mail
from django.core.management import call_command
from django.test import override_settings
from docutils import nodes
from docutils.core import publish_doctree
from scripted import BODY, CLOSE, at

from email_hosts import checks, dsn, mailers, options
from email_hosts.backends import EmailHostsBackend
from email_hosts.conf import DJANGO_HAS_MAILERS
from email_hosts.options import HOST_OPTION_NAMES

README = Path(__file__).parent.parent / "README.rst"
# Strict: the smallest mistake in the markup is an error.
STRICT = {"report_level": 1, "halt_level": 1, "syntax_highlight": "none"}
DOCUMENT = publish_doctree(README.read_text(), settings_overrides=STRICT)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'connection' argument is deprecated"),
    pytest.mark.filterwarnings("ignore:The EMAIL_BACKEND setting is deprecated"),
]


def code(language):
    """Return the code blocks of a language."""
    return [
        block.astext()
        for block in DOCUMENT.findall(nodes.literal_block)
        if language in block["classes"]
    ]


SETTINGS = [block for block in code("python") if block.startswith("# settings.py")]
OTHERS = [block for block in code("python") if block not in SETTINGS]


def the_one(text, blocks=OTHERS):
    (found,) = (block for block in blocks if text in block)
    return found


def literals(part=DOCUMENT):
    """Return what stands between double backquotes."""
    return {literal.astext() for literal in part.findall(nodes.literal)}


TABLES = [
    [list(row) for row in table.findall(nodes.row)] for table in DOCUMENT.findall(nodes.table)
]


def first_column(header):
    """Return the literals of the first column of the table with this header."""
    (rows,) = (rows for rows in TABLES if rows[0][0].astext() == header)
    return {literal for first, *_ in rows[1:] for literal in literals(first)}


def settings_of(block):
    names: dict[str, Any] = {"INSTALLED_APPS": [], "EMAIL_HOSTS": {"default": "dummy:"}}
    exec(block, names)
    return {name: value for name, value in names.items() if name.isupper()}


@pytest.fixture(autouse=True)
def shop_mail(monkeypatch):
    """The modules of the project that settings of the README name. One has a router."""
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    for name in ("mail", "microsoft"):
        module = ModuleType(f"shop.{name}")
        exec(the_one(f"# shop/{name}.py"), vars(module))
        monkeypatch.setitem(sys.modules, f"shop.{name}", module)
    return sys.modules["shop.mail"]


def test_router_of_the_example(shop_mail):
    news = mail.EmailMessage(headers={"List-Id": "<newsletter.example.com>"})
    assert shop_mail.router(news) == "news"
    assert shop_mail.router(mail.EmailMessage()) is None


@pytest.mark.parametrize("block", SETTINGS)
def test_settings_are_valid(block, monkeypatch):
    monkeypatch.setenv("SHOP_EMAIL_HOST", "smtp://h")
    settings = settings_of(block)
    mailers(settings.get("EMAIL_HOSTS", {}))
    settings.pop("INSTALLED_APPS")
    settings = {k: v for k, v in settings.items() if k != "MAILERS" or DJANGO_HAS_MAILERS}
    with override_settings(**settings):
        call_command("check", fail_level="WARNING")


NEWER = ("using=", "django.tasks")  # what not every Django has


@pytest.mark.parametrize(
    "block", [block for block in OTHERS if not any(word in block for word in NEWER)]
)
def test_code_runs_in_a_project_with_these_hosts(block):
    exec(block, {"__name__": "readme"})


def test_test_of_the_example_passes():
    names: dict[str, Any] = {"__name__": "readme"}
    exec(the_one("class WelcomeTest"), names)
    test = names["WelcomeTest"]
    test.databases = set()
    test("test_shop_says_hello").debug()


@lru_cache  # Celery wants each task but once
def task_of(package):
    """Return the task that is written with this package."""
    names: dict[str, Any] = {"__name__": f"readme.{package}"}
    exec(the_one(f"from {package} import"), names)
    return names["send_welcome"]


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
        result = task_of("celery").apply(["shop", "someone@example.net"])
    assert result.successful() is sent
    assert len(server.accepted) == sent
    assert sum(command.startswith("MAIL") for command in server.commands) == tries


@pytest.mark.skipif(django.VERSION < (6, 0), reason="new in Django 6.0")
def test_task_of_django_sends(mailoutbox):  # pragma: tasks-only
    task_of("django.tasks").enqueue("shop", "someone@example.net")
    assert [message.sent_using for message in mailoutbox] == ["shop"]


@needs_mailers
def test_code_runs_with_mailers(monkeypatch):  # pragma: mailers-only
    (block,) = (each for each in SETTINGS if "EMAIL_HOSTS =" in each and "MAILERS =" in each)
    sent: list[Any] = []
    monkeypatch.setattr(EmailHostsBackend, "send_messages", lambda *args: sent.append(args))
    with override_settings(MAILERS=settings_of(block)["MAILERS"]):
        exec(the_one("using="), {})
    assert [host.alias for host, _ in sent] == ["shop"]


def test_table_of_schemes_is_complete():
    schemes = {literal.partition(":")[0] for literal in first_column("Scheme")}
    assert schemes == {*dsn.SCHEMES, f"{dsn.ANYMAIL}mailgun"}


def test_table_of_options_is_complete():
    found = first_column("Option") | first_column("OAuth 2.0")
    assert found == {*options.SMTP_OPTIONS, *options.HOST_OPTIONS}


def test_table_of_checks_is_complete():
    texts = {
        str(node.value)
        for node in ast.walk(ast.parse(inspect.getsource(checks)))
        if isinstance(node, ast.Constant)
    }
    numbers = filter(re.compile(r"[EW]\d{3}").fullmatch, texts)
    assert first_column("Message") == {f"{checks.TAG}.{number}" for number in numbers}


@pytest.mark.parametrize("rows", TABLES, ids=lambda rows: rows[0][0].astext())
def test_row_of_a_table_has_a_first_and_a_last_cell(rows):
    """In a simple table, a second line that is not empty at its start is a new row."""
    assert all(row[0].astext() and row[-1].astext() for row in rows)


def test_options_of_one_connection_are_those_of_the_backend():
    options = inspect.signature(EmailHostsBackend).parameters.keys()
    assert options - {"fail_silently", "alias", "others"} <= literals()
    assert literals() >= HOST_OPTION_NAMES.keys()


def test_table_of_checkemailhosts_looks_like_that():
    out = StringIO()
    with override_settings(EMAIL_HOSTS=settings_of(SETTINGS[0])["EMAIL_HOSTS"]):
        call_command("checkemailhosts", stdout=out)
    (shown,) = (
        block.astext()
        for block in DOCUMENT.findall(nodes.literal_block)
        if block.astext().startswith("HOST ")
    )
    real = [line.split()[:-1] for line in out.getvalue().splitlines()]
    assert [line.split()[: len(real[0])] for line in shown.splitlines()] == real


def test_two_commands_are_there_for_a_newcomer():
    for environment in ("demo", "py"):
        line = f"python -m pip install tox && python -m tox run -e {environment}"
        assert line in DOCUMENT.astext().splitlines()


def test_new_project_sends_through_two_hosts(start_server, tls, cafile, tmp_path):
    """``django-admin startproject`` and the README's set-up and first lines."""
    servers = {
        key: start_server(context=tls, login=(f"{key}-user", "secret"))
        for key in ("shop", "club")
    }
    environment = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        **{
            f"{key.upper()}_EMAIL_HOST": (
                f"submission://{key}-user:secret@127.0.0.1:{server.port}"
                f"?_default_from_email={key}@example.com&ssl_cafile={cafile}"
            )
            for key, server in servers.items()
        },
    }

    def run(*command):
        return run_python(*command, cwd=tmp_path, environment=environment)

    defaults = "--settings=django.conf.global_settings"
    run("-m", "django", "startproject", defaults, "project", ".")
    with (tmp_path / "project" / "settings.py").open("a") as settings:
        settings.write(the_one("INSTALLED_APPS", SETTINGS))
    run("manage.py", "check", "--fail-level=WARNING")
    assert run("manage.py", "checkemailhosts", "--connect").count("  OK ") == 2
    run("manage.py", "sendtestemailhosts", "club", "me@example.net")
    run("manage.py", "shell", "-c", the_one("# views.py, tasks.py"))
    assert {
        key: [(mail.user, mail.sender, mail.recipients) for mail in server.received]
        for key, server in servers.items()
    } == {
        "shop": [("shop-user", "shop@example.com", ["someone@example.net"])],
        "club": [("club-user", "club@example.com", ["me@example.net"])],
    }
