"""Which options of an SMTP host go together with ``oauth2``, wherever they are given."""

from typing import Any

import pytest
from django.core import checks

from email_hosts.backends import EmailHostsBackend, connection_from_dsn, get_connection
from email_hosts.dsn import parse
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.oauth2.token_endpoint import Endpoint
from email_hosts.oauth2.validation import NEEDED, TAKEN
from email_hosts.options import OAUTH2_GRANTS, OAUTH2_OPTIONS

SECRETS = ("Kx7vQz9", "Wj4bYt2")
URL = "https://login.example.com/token"
CLIENT = f"oauth2_token_url={URL}&oauth2_client_id=id"
CREDENTIALS = f"oauth2=client_credentials&{CLIENT}&oauth2_client_secret=Kx7vQz9"
REFRESH = f"oauth2=refresh_token&{CLIENT}&oauth2_refresh_token=Wj4bYt2"
CALLABLE = f"oauth2={__name__}.token"
USER = "submission://me%40example.com@h?"

not_callable = "Kx7vQz9"


def token(username, *, renew):
    """A callable of a project, which nobody calls here."""


def test_token_takes_the_place_of_the_password():
    options = parse(f"{USER}{CALLABLE}")["OPTIONS"]
    assert (options["username"], options["password"]) == ("me@example.com", "")
    assert options["oauth2"] == f"{__name__}.token"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (CREDENTIALS, {"oauth2": "client_credentials", "oauth2_client_secret": "Kx7vQz9"}),
        (f"{CREDENTIALS}&oauth2_scope=a b", {"oauth2_scope": "a b"}),
        (REFRESH, {"oauth2": "refresh_token", "oauth2_refresh_token": "Wj4bYt2"}),
        (f"{REFRESH}&oauth2_client_secret=a%26b%40%2F", {"oauth2_client_secret": "a&b@/"}),
        (f"{REFRESH}&oauth2_scope=s", {"oauth2_scope": "s"}),
    ],
)
def test_what_is_built_in_takes_its_options(query, expected):
    options = parse(USER + query)["OPTIONS"]
    assert expected.items() <= options.items()
    assert isinstance(EmailHostsBackend(**options).oauth2, Endpoint)


ENCODE = "what follows an ampersand is no option"


@pytest.mark.parametrize(
    ("dsn", "part"),
    [
        (f"submission://me:Kx7vQz9@h?{CALLABLE}", "remove the password"),
        (f"submission://:Kx7vQz9@h?{CALLABLE}", "remove the password"),
        (f"submission://h?{CALLABLE}", "'oauth2' needs a user name; write submission://me"),
        (f"smtp://me@h?{CALLABLE}", "'oauth2' needs TLS; write submission://"),
        (f"smtp://me@localhost?{CALLABLE}", "'oauth2' needs TLS"),
        (f"smtp://me@127.0.0.1?{CALLABLE}", "'oauth2' needs TLS"),
        (f"submission://me@h?{CALLABLE}&tls=0", "'oauth2' needs TLS"),
        (f"submission://m%C3%BC@h?{CALLABLE}", "the user name must be printable ASCII"),
        (
            f"{USER}oauth2=",
            "'oauth2' must be client_credentials, refresh_token, or the dotted",
        ),
        (f"{USER}oauth2=client_credential", "'oauth2' must be client_credentials, refresh_"),
        (f"{USER}oauth2=shop.mail.tok-en", "'oauth2' must be"),
        (f"{USER}oauth2=Kx7vQz9.{'Wj4bYt2' * 20}", "'oauth2' must be"),
        (
            f"{USER}oauth2=client_credentials",
            "needs 'oauth2_token_url' and 'oauth2_client_id'",
        ),
        (f"{USER}oauth2=client_credentials&{CLIENT}", "needs 'oauth2_client_secret' beside"),
        (f"{USER}oauth2=refresh_token&{CLIENT}", "needs 'oauth2_refresh_token' beside it"),
        (
            f"{USER}{CREDENTIALS}&oauth2_refresh_token=Wj4bYt2",
            "'oauth2_refresh_token' belongs to oauth2=refresh_token",
        ),
        (
            f"{USER}{CALLABLE}&oauth2_client_id=Wj4bYt2",
            "'oauth2_client_id' belongs to oauth2=client_credentials and oauth2=refresh_token",
        ),
        (
            "submission://me:Kx7vQz9@h?oauth2_client_id=x",
            "option 'oauth2_client_id' needs 'oauth2' beside it",
        ),
        ("submission://me@h?oauth2_client_id=x", "a user name and no password"),
        (f"{USER}{CREDENTIALS}&oauth2_scope=", "'oauth2_scope' must have a value"),
        (f"{USER}{CREDENTIALS}&Wj4bYt2", ENCODE),
        (f"{USER}{CREDENTIALS}&Wj4bYt2=x", ENCODE),
        (f"{USER}{REFRESH}&Kx7vQz9", ENCODE),
        (f"{USER}{REFRESH}&timout=5", f"{ENCODE}; did you mean 'timeout'?"),
        (f"{USER}{CREDENTIALS}@Wj4bYt2", "the DSN has an at sign among its options"),
        (f"{USER}oauth2_client_secrt=Kx7vQz9", "did you mean 'oauth2_client_secret'?"),
        (f"console://?{CALLABLE}", "unknown option 'oauth2'"),
    ],
)
def test_refusal_says_what_to_change_and_repeats_no_secret(dsn, part):
    with pytest.raises(InvalidEmailHost) as caught:
        parse(dsn)
    message = str(caught.value)
    assert part in message
    assert not any(secret[i : i + 3] in message for secret in SECRETS for i in range(5))


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("https://login.microsoftonline.com/tenant/oauth2/v2.0/token", True),
        ("https://oauth2.googleapis.com/token", True),
        ("https://[2001:db8::1]:8443/token?a=b", True),
        ("http://127.0.0.1:8000/token", True),
        ("http://[::1]:8000/token", True),
        ("http://localhost/token", True),
        ("http://login.example.com/token", False),
        ("http://192.0.2.1/token", False),
        ("ftp://login.example.com/token", False),
        ("file:///etc/passwd", False),
        ("login.example.com/token", False),
        ("https://", False),
        ("https://a..b/token", False),
        (f"https://{'a' * 64}.example.com/token", False),
        ("https://login.example.com:x/token", False),
        ("https://[::1/token", False),
        ("https://Kx7vQz9:Wj4bYt2@login.example.com/token", False),
        ("https://login.example.com/token#Kx7vQz9", False),
        ("https://login.example.com/a b", False),
        ("https://bücher.example/token", False),
    ],
)
def test_secret_goes_to_an_https_url_or_to_this_machine(url, is_good):
    options = {**parse(USER + CREDENTIALS)["OPTIONS"], "oauth2_token_url": url}
    if is_good:
        EmailHostsBackend(**options)
        return
    with pytest.raises(InvalidEmailHost, match="must be a URL that starts with https://") as c:
        EmailHostsBackend(**options)
    assert not any(secret in str(c.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"password": "Kx7vQz9"}, "remove the password"),
        ({"username": ""}, "needs a user name"),
        ({"username": "a\1b"}, "must be printable ASCII"),
        ({"use_tls": False}, "needs TLS"),
        ({"username": 5}, "option 'username' must be text, not int"),
        ({"oauth2_scope": ["x"]}, "option 'oauth2_scope' must be text, not list"),
        ({"oauth2_client_secret": b"Kx7vQz9"}, "option 'oauth2_client_secret' must be text"),
        ({"oauth2_client_secret": "Kx7vQz9\ud800"}, "'oauth2_client_secret' has a control"),
        ({"oauth2_token_url": "https://a.example/\n"}, "'oauth2_token_url' has a control"),
        ({"oauth2": 5}, "must be client_credentials"),
        ({"oauth2": "Kx7vQz9"}, "must be client_credentials"),
        ({"oauth2": None, "oauth2_scope": "x"}, "'oauth2_scope' needs 'oauth2' beside it"),
        ({"oauth2_scope": "x"}, "belongs to oauth2=client_credentials"),
        ({"oauth2": "no.such.token"}, "'no.such.token' cannot be imported: No module named"),
        ({"oauth2": f"{__name__}.nothing"}, "cannot be imported: Module"),
        ({"oauth2": f"{__name__}.not_callable"}, "not_callable' is not callable"),
    ],
)
def test_options_of_one_connection_are_looked_at_with_the_hosts_key(options, part, settings):
    settings.EMAIL_HOSTS = {"shop": "submission://h"}
    given = {"username": "me", "oauth2": token, **options}
    with pytest.raises(InvalidEmailHost) as caught:
        get_connection("shop", **given)
    assert str(caught.value).startswith('EMAIL_HOSTS["shop"]: ')
    assert part in str(caught.value)
    assert "Kx7vQz9" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("dsn", [USER + CALLABLE, USER + CREDENTIALS, USER + REFRESH])
def test_strangers_dsn_gets_no_token(dsn):
    with pytest.raises(InvalidEmailHost, match="'oauth2' is not allowed in a DSN from elsewh"):
        connection_from_dsn(dsn, file_options=["oauth2"])


def test_caller_may_give_a_token_to_a_strangers_server():
    connection: Any = connection_from_dsn("submission://h", username="me", oauth2=token)
    assert connection.alias is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no.such.token", "cannot be imported: No module named 'no'"),
        (f"{__name__}.nothing", "cannot be imported: Module"),
        (f"{__name__}.not_callable", "is not callable"),
    ],
)
def test_path_that_is_wrong_is_a_message_of_check(path, problem, settings):
    settings.EMAIL_HOSTS = {"shop": f"{USER}oauth2={path}", "other": USER + CREDENTIALS}
    (message,) = checks.run_checks(tags=["email_hosts"])
    assert message.id == "email_hosts.E002"
    assert message.msg.startswith(
        f"EMAIL_HOSTS[\"shop\"]: option 'oauth2': '{path}' {problem}"
    )
    assert "token(username, *, renew)" in str(message.hint)


def test_tables_agree():
    assert {*NEEDED} == {*TAKEN} == {*OAUTH2_GRANTS}
    assert {"oauth2"}.union(*TAKEN.values()) == {*OAUTH2_OPTIONS}
