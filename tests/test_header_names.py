"""The name of a header is refused if it would begin another header."""

from typing import Any

import pytest
from django.core.mail import EmailMessage

from email_hosts.backends import HostBackend, RoutingBackend, get_connection
from email_hosts.testing import real_hosts

CONSOLE = "django.core.mail.backends.console.EmailBackend"


@pytest.mark.parametrize("name", ["X-A\nBcc", "X-A\r\nBcc", "X-A\rBcc", "\nX-A"])
@pytest.mark.parametrize("way", ["shop", "all", "router", "wrapped", "outbox"])
def test_name_with_a_line_break_is_refused(way, name, serve, settings, mailoutbox, capsys):
    server = serve()
    settings.EMAIL_HOSTS = {
        "shop": f"smtp://127.0.0.1:{server.port}",
        "all": "failover:shop",
        "outbox": "locmem:",
        "default": "failover:shop",
    }
    connection: Any = {
        "router": lambda: RoutingBackend(),
        "wrapped": lambda: HostBackend(CONSOLE),
    }.get(way, lambda: get_connection(way))()
    message = EmailMessage("Hello", to=["a@example.net"], headers={name: "evil@example.net"})
    with real_hosts(), pytest.raises(ValueError, match=r"header.*line break"):
        connection.send_messages([message])
    assert (server.accepted, mailoutbox, capsys.readouterr().out) == ([], [], "")
