"""Mistakes of a first hour, and what the answer to each says.

Those in DSNs are in ``test_dsn``, and those that ``manage.py check`` finds in ``test_checks``.
"""

import smtplib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp

from email_hosts.backends import (
    HostBackend,
    RoutingBackend,
    connection_from_dsn,
    get_connection,
)
from email_hosts.exceptions import InvalidEmailHost, RateLimited
from email_hosts.testing import real_hosts

PASSWORD = "Wj4bYt2"
DSN = f"smtp://Kx7vQz9:{PASSWORD}@h.example.com"
NO_PATH = "the backend must be the dotted path of a class, not"


class Smtp(smtp.EmailBackend):
    """A project's own."""


SUBCLASS = f"{__name__}.Smtp"

MISTAKES: list[tuple[Callable[[], Any], str]] = [
    # The call is named, and not the setting.
    (
        lambda: get_connection("shop", timout=5),
        "get_connection(\"shop\"): unknown option 'timout'; did you mean 'timeout'?$",
    ),
    (
        lambda: get_connection("shop", zz=5),
        "get_connection(\"shop\"): unknown option 'zz'; known options: host, port, username, ",
    ),
    (
        lambda: get_connection("shop", port="25"),
        "get_connection(\"shop\"): option 'port' must be a number, not str$",
    ),
    (
        lambda: get_connection("shop", port=99999),
        "get_connection(\"shop\"): option 'port' must be a whole number from 1 to 65535$",
    ),
    (
        lambda: get_connection("console", reply_to=5),
        "get_connection(\"console\"): option 'reply_to' must be text, not int$",
    ),
    (
        lambda: RoutingBackend(alias="shop", router="shop.mail.router"),
        "MAILERS[\"shop\"]: unknown option 'router'; the setting EMAIL_HOSTS_ROUTER names the "
        "router$",
    ),
    *(
        (partial(call, fail_silently=value), "'fail_silently' must be True or False$")
        for call in (
            partial(get_connection, "shop"),
            partial(get_connection, "nobody"),
            partial(connection_from_dsn, "smtp://h"),
        )
        for value in ("no", 2)
    ),
    # A key for a DSN, and the reverse.
    (lambda: connection_from_dsn("shop"), "the DSN starts with no scheme; for a mail server"),
    (
        lambda: get_connection(DSN),
        "the key of a host must not be a DSN; give the DSN a key in ",
    ),
    # A backend that is wrapped by hand.
    (lambda: HostBackend(DSN), f"{NO_PATH} a DSN; write the DSN in EMAIL_HOSTS$"),
    *((lambda each=each: HostBackend(each), NO_PATH) for each in (5, None, Smtp, [DSN])),
    (lambda: HostBackend("no.such"), "backend 'no.such' cannot be imported: No module "),
    *(
        (
            lambda path=path: HostBackend(path),
            f"backend '{path}' must be the class of a mail backend$",
        )
        for path in ("os.path.join", "os.path", "builtins.dict")
    ),
    (lambda: HostBackend(SUBCLASS, host=5), "option 'host' must be text, not int$"),
]


@pytest.mark.parametrize(("mistake", "answer"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_answer_says_what_to_write(mistake, answer, settings):
    settings.EMAIL_HOSTS = {"shop": "smtp://h", "console": "console:?_reply_to=a@b"}
    with pytest.raises(InvalidEmailHost) as caught:
        mistake()
    text = str(caught.value)
    assert text == answer[:-1] if answer.endswith("$") else text.startswith(answer)
    assert PASSWORD not in text


@pytest.mark.parametrize("key", ["shop", "console", "all"])
def test_one_message_is_no_list(key, settings):
    settings.EMAIL_HOSTS = {"shop": "smtp://h", "console": "console:", "all": "failover:shop"}
    with pytest.raises(TypeError, match=r"write send_messages\(\[message\]\)"):
        get_connection(key).send_messages(EmailMessage("Hello", to=["a@b.example"]))  # type: ignore[arg-type]


@real_hosts()
def test_server_without_starttls_says_which_scheme_fits(serve):
    connection = connection_from_dsn(f"submission://127.0.0.1:{serve(extensions=[]).port}")
    with pytest.raises(smtplib.SMTPNotSupportedError) as caught:
        connection.open()
    assert str(caught.value).endswith(
        "by server. submissions:// is for TLS from the first byte, smtp:// for no TLS"
    )


def test_message_to_too_many_says_how_many(settings):
    settings.EMAIL_HOSTS = {"shop": "smtp://h?rate=2/m&rate_by=recipients"}
    message = EmailMessage("Hello", "World", to=["a@b.example", "b@b.example", "c@b.example"])
    with pytest.raises(RateLimited) as caught:
        get_connection("shop").send_messages([message])
    assert str(caught.value) == (
        'host "shop": a message to 3 recipients can never be sent with its limit of 2/m'
    )
