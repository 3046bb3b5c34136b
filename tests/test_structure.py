"""Each idea has one place in the package, and what gets installed is complete."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from conftest import run_python

import email_hosts
from email_hosts.options import SEVERAL_OPTIONS, SMTP_OPTIONS

PACKAGE = Path(email_hosts.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")
}

TABLE = "options.py"
SMTP = "backends/smtp.py"
WRAPPED = "backends/wrapped.py"  # what Django's SMTP backend would take from the settings
TRANSPORT = f"{SMTP} {WRAPPED} host.py dsn.py schemes.py"
LOGIN = f"{SMTP} {WRAPPED} host.py dsn.py smtp/login.py smtp/redaction.py"
SENDER = "backends/base.py rules/sender.py"
LIMITED = "backends/base.py backends/limited.py values.py"

# The modules that use the value of an option. Those of ssl_cafile, for example, connect.
# oauth2.py makes four of its names of those of its class.
USERS = {
    "username": f"{LOGIN} backends/limited.py oauth2.py",
    "password": f"{LOGIN} exceptions.py smtp/tls.py values.py",
    "use_tls": TRANSPORT,
    "use_ssl": TRANSPORT,
    "ssl_certfile": f"{SMTP} {WRAPPED} conf.py",
    "ssl_keyfile": f"{SMTP} {WRAPPED} conf.py",
    "ssl_cafile": f"{SMTP} smtp/tls.py",
    "local_hostname": SMTP,
    "conn_max_age": f"{SMTP} smtp/pool.py",
    "conn_max_messages": SMTP,
    "conn_max_idle": SMTP,
    "oauth2": f"{SMTP} host.py dsn.py values.py oauth2.py smtp/login.py",
    "oauth2_token_url": "oauth2.py",
    "default_from_email": f"{SENDER} hosts.py registry.py",
    "server_email": f"{SENDER} hosts.py",
    "reply_to": "rules/__init__.py rules/headers.py",
    "envelope_from": SENDER,
    "redirect_to": f"rules/redirect.py {WRAPPED}",
    "allowed_recipients": "rules/redirect.py",
    "rate": f"{LIMITED} {SMTP} host.py rate.py conf.py exceptions.py",  # the word, too
    "rate_by": LIMITED,
    "rotate": "backends/failover.py schemes.py",
}
# Words that mean other things, too.
COMMON = {"host", "hosts", "port", "timeout", "headers", "parallel", "retry"}
# These show what a host is, to people.
SHOW = ("checks/", "management/")


def modules_with(pattern: str) -> set[str]:
    return {name for name, text in MODULES.items() if re.search(pattern, text, re.MULTILINE)}


@pytest.mark.parametrize("option", sorted({*SMTP_OPTIONS, *SEVERAL_OPTIONS} - COMMON))
def test_option_is_named_in_the_table_and_where_its_value_is_used(option):
    named = {name for name in modules_with(rf"\b{option}\b") if not name.startswith(SHOW)}
    assert named - {TABLE} <= {*USERS.get(option, "").split()}
    assert TABLE in named


@pytest.mark.parametrize(
    ("pattern", "modules"),
    [
        (r"def send_messages\b", {"backends/base.py"}),
        (r"\b_TestState\b", {"conf.py"}),
        (r"\bconf\.tests_are_running\(", {"testmode.py"}),
        # The core does not import what is for tests.
        (r"^\s*(from|import) .*\btesting\b", set()),
        # Nobody asks a class what it is.
        (r"\b(applies_host|has_members|asks_router|is_outbox)\b", set()),
    ],
)
def test_one_place_for(pattern, modules):
    assert modules_with(pattern) == modules


def test_modules_are_small():
    assert {name for name, text in MODULES.items() if text.count("\n") > 420} == set()


def test_version_has_one_source_and_types_are_there():
    assert metadata.version("django-email-hosts") == email_hosts.__version__
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    ("code", "unused"),
    [
        # A settings file can use it.
        ("email_hosts.mailers({'a': 'smtp://h?_reply_to=a@b.example'})", "django.conf"),
        # So can a script that does without django.setup().
        ("from email_hosts.backends import get_connection as a; a('shop')", "urllib.request"),
    ],
)
def test_what_is_not_used_is_not_imported(code, unused):
    run_python("-c", f"import sys, email_hosts; {code}; assert {unused!r} not in sys.modules")
