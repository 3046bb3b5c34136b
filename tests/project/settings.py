"""Its settings. They also cut the network off."""

import os
import socket

import django

from email_hosts import mailers

# Whoever asks for an address or connects gets a TypeError.
for name in ("create_connection", "getaddrinfo"):
    setattr(socket, name, None)
socket.socket.connect = None  # type: ignore[assignment, method-assign]

SECRET_KEY = "project"
INSTALLED_APPS = ["email_hosts"]
USE_TZ = True
DEFAULT_FROM_EMAIL = "project@example.com"
ADMINS = ["admin@example.com"] if django.VERSION >= (6, 0) else [("", "admin@example.com")]

EMAIL_HOSTS = {
    "shop": "submission://user:secret@smtp.example.com?_default_from_email=shop@example.com",
    "club": "smtps://smtp.example.org?_server_email=alert@example.org",
    "folder": "file:/dev/null/out?_default_from_email=folder@example.com",
}
ELSEWHERE = {"host": "smtp.example.net"}
HAND = {**ELSEWHERE, "default_from_email": "hand@example.com"}
DEFAULT = os.environ["DEFAULT"]
if DEFAULT == "EMAIL_HOST":
    EMAIL_HOST = "smtp.example.net"
elif DEFAULT == "MAILERS" and django.VERSION >= (6, 1):  # pragma: mailers-only
    BACKENDS = "email_hosts.backends"
    MAILERS = {
        "default": {"OPTIONS": ELSEWHERE},
        **mailers({"shop": EMAIL_HOSTS["shop"], "safe": "failover:shop,club"}),
        "hand": {"BACKEND": f"{BACKENDS}.EmailHostsBackend", "OPTIONS": HAND},
        "routed": {"BACKEND": f"{BACKENDS}.RoutingBackend"},
        "elsewhere": {"BACKEND": "no.such.Backend"},
        "plain": {},
    }
    EMAIL_HOSTS_ROUTER = lambda message: "shop"  # noqa: E731
elif DEFAULT == "empty MAILERS":  # pragma: mailers-only
    MAILERS = {}
