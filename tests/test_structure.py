"""Each idea has one place in the package."""

import re
from pathlib import Path

import pytest

import email_hosts
from email_hosts.options import SEVERAL_OPTIONS, SMTP_OPTIONS

PACKAGE = Path(email_hosts.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")
}

TABLE = "options.py"
SMTP = "backends/smtp.py"
WRAPPED = "backends/wrapped.py"  # what Django's SMTP backend would take from the settings
TRANSPORT = {SMTP, WRAPPED, "host.py", "dsn.py", "schemes.py"}
SENDER = {"backends/base.py", "rules/sender.py"}

# The modules that use the value of an option. Those of ssl_cafile, for example, connect.
USERS = {
    "username": {
        SMTP,
        "backends/limited.py",
        WRAPPED,
        "host.py",
        "dsn.py",
        "oauth2.py",
        "smtp/login.py",
    }
    | {"smtp/redaction.py"},
    "password": {SMTP, WRAPPED, "host.py", "dsn.py", "exceptions.py", "smtp/login.py"}
    | {"smtp/redaction.py", "smtp/tls.py", "values.py"},
    "use_tls": TRANSPORT,
    "use_ssl": TRANSPORT,
    "ssl_certfile": {SMTP, WRAPPED, "conf.py"},
    "ssl_keyfile": {SMTP, WRAPPED, "conf.py"},
    "ssl_cafile": {SMTP},
    "local_hostname": {SMTP},
    "conn_max_age": {SMTP, "smtp/pool.py"},
    "conn_max_messages": {SMTP},
    "conn_max_idle": {SMTP},
    "oauth2": {SMTP, "host.py", "dsn.py", "values.py", "oauth2.py", "smtp/login.py"},
    "oauth2_token_url": {"oauth2.py"},
    "oauth2_client_id": set(),  # oauth2.py makes these names of those of its class
    "oauth2_client_secret": set(),
    "oauth2_scope": set(),
    "oauth2_refresh_token": set(),
    "default_from_email": {*SENDER, "hosts.py", "registry.py"},
    "server_email": {*SENDER, "hosts.py"},
    "reply_to": {"rules/__init__.py", "rules/headers.py"},
    "envelope_from": SENDER,
    "redirect_to": {"rules/redirect.py", WRAPPED},
    "allowed_recipients": {"rules/redirect.py"},
    "rate": {"backends/base.py", "backends/smtp.py", "backends/limited.py", "rate.py"}
    | {"conf.py", "exceptions.py", "values.py"},  # the word
    "rate_by": {"backends/base.py", "backends/limited.py", "values.py"},
    "rotate": {"backends/failover.py", "schemes.py"},
}
# Words that mean other things, too.
COMMON = {"host", "hosts", "port", "timeout", "headers", "parallel", "retry"}
# These show what a host is, to people.
SHOW = ("checks/", "management/")


def modules_with(pattern: str) -> list[str]:
    return [name for name, text in MODULES.items() if re.search(pattern, text)]


@pytest.mark.parametrize("option", sorted({*SMTP_OPTIONS, *SEVERAL_OPTIONS} - COMMON))
def test_option_is_named_in_the_table_and_where_its_value_is_used(option):
    named = {name for name in modules_with(rf"\b{option}\b") if not name.startswith(SHOW)}
    assert named - {TABLE} <= USERS[option]
    assert TABLE in named


@pytest.mark.parametrize("flag", ["applies_host", "has_members", "asks_router", "is_outbox"])
def test_nobody_asks_a_class_what_it_is(flag):
    assert modules_with(rf"\b{flag}\b") == []


@pytest.mark.parametrize(
    ("pattern", "modules"),
    [
        (r"def send_messages\b", ["backends/base.py"]),
        (r"\b_TestState\b", ["conf.py"]),
        (r"\bconf\.tests_are_running\(", ["testmode.py"]),
    ],
)
def test_one_place_for(pattern, modules):
    assert sorted(modules_with(pattern)) == modules


def test_messages_are_sent_in_one_function():
    assert sum(text.count("def send_messages") for text in MODULES.values()) == 1


@pytest.mark.parametrize("module", sorted(MODULES))
def test_core_does_not_import_what_is_for_tests(module):
    if not module.startswith("testing/"):
        assert not re.search(r"^\s*(from|import) .*\btesting\b", MODULES[module], re.MULTILINE)
