"""The README's functions that get a token, with msal and google-auth, against servers."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.mail import EmailMessage
from servers import XOAuth2Server
from test_readme import the_one

from email_hosts.backends import EmailHostsBackend
from email_hosts.exceptions import OAuth2Error

REFUSED = {"error": "invalid_grant", "error_description": "AADSTS7000215: Invalid secret"}


def recipe(name):
    """Return the function of a module in the README."""
    module = ModuleType(name)
    exec(the_one(f"# shop/{name}.py"), vars(module))
    return module.token


def replace_microsoft(token_url, monkeypatch):
    """Answer what msal asks login.microsoftonline.com, whose name stands in the recipe.

    The request for a token goes to our server: msal wants HTTPS of any name.
    """
    send = requests.adapters.HTTPAdapter.send
    issuer = "https://login.microsoftonline.com/tenant/v2.0"

    def answer(adapter, request, **options):
        if request.method == "POST":
            assert request.url == f"{issuer}/token"
            request.url = token_url
            return send(adapter, request, **options)
        response = requests.Response()
        response.status_code = 200
        content = {
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "issuer": issuer,
            "tenant_discovery_endpoint": f"{issuer}/.well-known/openid-configuration",
            "metadata": [],
        }
        response._content = json.dumps(content).encode()
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", answer)


@pytest.fixture(params=["microsoft", "google"])
def start(request, start_token_server, monkeypatch, tmp_path):
    """Make the function of a recipe, and the token server with these answers that it asks."""

    def start(*answers):
        server = start_token_server(*answers)
        if request.param == "microsoft":
            for name in ("CLIENT_ID", "CLIENT_SECRET", "TENANT"):
                monkeypatch.setenv(f"MAIL_{name}", name.lower())
            replace_microsoft(server.url, monkeypatch)
            return recipe("microsoft"), server
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {"client_email": "shop@project.example", "private_key": key.decode()}
        path = tmp_path / "account.json"
        path.write_text(json.dumps({**account, "token_uri": server.url}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        return recipe("google"), server

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
