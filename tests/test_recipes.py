"""The README's function that gets a token with google-auth, against servers."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.mail import EmailMessage
from servers import XOAuth2Server
from test_readme import the_one

from email_hosts.backends import EmailHostsBackend
from email_hosts.exceptions import OAuth2Error

REFUSED = {"error": "invalid_grant", "error_description": "AADSTS7000215: Invalid secret"}


@pytest.fixture
def start(start_token_server, monkeypatch, tmp_path):
    """Make the function, and the token server with these answers that it asks."""

    def start(*answers):
        server = start_token_server(*answers)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {"client_email": "shop@project.example", "private_key": key.decode()}
        path = tmp_path / "account.json"
        path.write_text(json.dumps({**account, "token_uri": server.url}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        module = ModuleType("google")
        exec(the_one("# shop/google.py"), vars(module))
        return module.token, server

    return start


def test_sends_keeps_its_token_and_renews_it(start, tls, cafile):
    token, token_server = start()
    server = XOAuth2Server(tokens=["token-1"], context=tls)
    with server:
        for good in ("token-1", "token-1", "token-2"):
            server.tokens = {good}
            backend = EmailHostsBackend(
                "127.0.0.1",
                server.port,
                username="me@example.com",
                use_tls=True,
                ssl_cafile=str(cafile),
                oauth2=token,
            )
            backend.send_messages([EmailMessage("Hello", "World", to=["a@example.net"])])
        logins = server.logins
    assert [token for _, token in logins] == ["token-1", "token-1", "token-1", "token-2"]
    assert len(token_server.forms) == 2


def test_tells_why_there_is_no_token(start):
    token, _ = start(REFUSED)
    with pytest.raises(OAuth2Error, match="invalid_grant: AADSTS7000215: Invalid secret"):
        token("me@example.com", renew=False)
