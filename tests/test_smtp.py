"""SMTP hosts, against real servers."""

import logging
import smtplib
import socket
import threading
from contextlib import suppress
from unittest import mock

import django
import pytest
from conftest import host_of, mails
from django.core.mail.backends.smtp import EmailBackend
from django.utils.translation import gettext_lazy
from scripted import CLOSE, any_of, at, to

from email_hosts.backends import EmailHostsBackend
from email_hosts.smtp.transaction import quoted

LOGIN = ("me@example.com", "p/a?s#s+")
ENCODED_LOGIN = "me%40example.com:p%2Fa%3Fs%23s+"


@pytest.mark.parametrize(
    ("scheme", "implicit"),
    [("submission", False), ("smtp+tls", False), ("submissions", True), ("smtps", True)],
)
def test_message_has_tls_and_login(
    scheme, implicit, start_server, connect, tls, cafile, message
):
    server = start_server(context=tls, implicit=implicit, login=LOGIN)
    query = f"ssl_cafile={cafile}&local_hostname=web.example.com"
    query += "&_default_from_email=Bücher <laden@bücher.example>"
    host = connect(f"{scheme}://{ENCODED_LOGIN}@127.0.0.1:{server.port}?{query}")
    assert host.send_messages([message]) == 1
    (received,) = server.received
    assert (received.user, received.tls) == (LOGIN[0], True)
    assert received.local_hostname == "web.example.com"
    assert received.sender == "laden@xn--bcher-kva.example"
    assert received.recipients == ["someone@example.net"]


def test_list_ends_at_a_message_that_cannot_be_made(serve, new_message):
    """Only errors of mail are ignored. The connection is one that was set."""
    server = serve()
    batch = [new_message(), new_message(headers={"X": "a\nb"}), new_message()]
    backend = host_of(server, fail_silently=True)
    backend.connection = smtplib.SMTP("127.0.0.1", server.port)
    with backend, pytest.raises(ValueError, match="Header"):
        backend.send_messages(batch)
    assert (server.connections, len(server.accepted)) == (1, 1)


class Filter(EmailHostsBackend):
    """A project's own, as it may be with Django's backend."""

    def _send(self, email_message):
        return "a" not in email_message.subject and super()._send(email_message)  # type: ignore[misc]


def test_subclass_may_leave_a_message_out(serve, connect):
    server = serve()
    backend = connect(f"backend://{__name__}.Filter?host=127.0.0.1&port={server.port}")
    assert backend.send_messages(mails(*"abc")) == len(server.accepted) == 2
    with mock.patch.object(backend, "open", return_value=None):  # as another one may do
        assert backend.send_messages(mails("b")) == 0


class TestFailure:
    """A send that fails raises an OSError, or is logged."""

    @pytest.mark.parametrize(
        ("scheme", "is_told"), [("smtp", True), ("submission", True), ("submissions", False)]
    )
    def test_to_answer_ends_in_time_and_tells_why(self, scheme, is_told, connect, message):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = connect(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}?timeout=0.1")
            with pytest.raises(OSError, match="timed out") as caught:
                host.send_messages([message])
        hint = "; the server sent no greeting; if its port is for TLS, use submissions://"
        assert str(caught.value).endswith(hint) is is_told

    def test_without_a_key_is_logged_by_its_address(self, closed_port, caplog):
        host = EmailHostsBackend("127.0.0.1", closed_port, fail_silently=True)
        assert host.open() is None
        assert host.send_messages(mails("a")) == 0
        told = f"127.0.0.1:{closed_port}: ConnectionRefusedError, ignored by fail_silently"
        assert caplog.messages == [told, told]


def test_refused_recipients_are_logged_without_names_and_kept_without_the_login(
    serve, connect, caplog
):
    server = serve(any_of(to("b@", "550 not for Kx7vQz9"), to("c@", "450 later")))
    host = connect(f"smtp://Kx7vQz9:Wj4bYt2@127.0.0.1:{server.port}")
    assert host.send_messages(mails("a+b+c")) == 1
    assert caplog.messages == ['host "shop": refused recipients: 2 [450, 550]']
    assert host.refused_recipients["b@example.net"] == (550, b"not for *****")
    host.send_messages(mails("a"))
    assert host.refused_recipients == {}


class TestConnection:
    """``backend.connection``, as Django's backend has it."""

    @pytest.mark.parametrize("spec", [None, ["sendmail", "quit"]], ids=["mock", "any object"])
    def test_may_be_set(self, spec, caplog):
        """Those of ``parallel`` do not join it. Its state is in the debug records, too."""
        caplog.set_level(logging.DEBUG, "email_hosts")
        backend = EmailHostsBackend("smtp.example.com", conn_max_age=60, parallel=4)
        backend.close()  # of none
        mocked = backend.connection = mock.Mock(spec=spec)
        assert backend.send_messages(mails(*"abcd")) == mocked.sendmail.call_count == 4
        sender, recipients, _ = mocked.sendmail.call_args.args
        assert (sender, recipients) == ("sender@example.com", ["d@example.net"])
        mocked.quit.assert_not_called()
        backend.close()
        mocked.quit.assert_called_once_with()
        assert backend.connection is None
        assert "4 messages>: discarded" in caplog.text

    @pytest.mark.parametrize("method", "sendmail mail rcpt data docmd rset quit".split())
    @pytest.mark.parametrize("place", ["class", "instance"])
    def test_is_asked_where_a_method_is_a_mock(self, place, method, serve, message):
        backend = host_of(serve(at("MAIL", "550 no") if method == "rset" else None))
        backend.open()
        connection = backend.connection
        owner = smtplib.SMTP if place == "class" else connection
        error = smtplib.SMTPDataError(451, b"later")
        with mock.patch.object(owner, method, side_effect=error) as mocked:
            with suppress(smtplib.SMTPResponseException):
                backend.send_messages([message])
            backend.close()
        connection.close()
        assert mocked.called

    def test_is_asked_where_its_class_has_a_sendmail_of_its_own(self, serve):
        """It is not kept, for nobody knows whether it is in step."""
        of_some = {"b@example.net": (550, b"no")}
        sendmail = mock.Mock(side_effect=[of_some, smtplib.SMTPDataError(554, b"no"), {}] * 2)
        own = type("Own", (smtplib.SMTP,), {"sendmail": sendmail})
        server = serve()
        with mock.patch.object(EmailHostsBackend, "connection_class", own):
            for _ in range(2):
                host = host_of(server, fail_silently=True, conn_max_age=60)
                assert host.send_messages(mails(*"abc")) == 2
                assert host.refused_recipients == of_some
        assert sendmail.call_count == 6
        assert server.connections == 2

    @pytest.mark.parametrize("has_ended", [True, False])
    def test_that_was_set_is_not_replaced(self, has_ended, serve):
        """It may lead to another server."""
        server, other = serve(), serve(at("MAIL", CLOSE), extensions=[])
        backend = host_of(server)
        with host_of(other) as its_own:
            backend.connection = its_own.connection
            if has_ended:
                other.disconnect()
            with pytest.raises(smtplib.SMTPServerDisconnected):
                backend.send_messages(mails("a"))
        assert server.connections == 0

    @pytest.mark.parametrize("options", [{}, {"conn_max_age": 60}])
    def test_that_is_of_no_more_use_is_replaced_before_the_next_send(self, options, serve):
        server = serve(at("MAIL", None, "452 enough"))
        with host_of(server, **options) as backend:
            server.disconnect()
            assert backend.send_messages(mails("a")) == 1
            with pytest.raises(smtplib.SMTPSenderRefused):
                backend.send_messages(mails("b"))
            assert backend.send_messages(mails("c")) == 1
        assert server.connections == 3

    def test_sends_small_writes_at_once(self, serve):
        with host_of(serve()) as backend:
            sock = backend.connection.sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    def test_is_closed_after_a_send_in_another_thread(self, serve):
        server = serve()
        backend = host_of(server)
        backend.open()
        closing = threading.Thread(target=backend.close)

        def coming():
            yield from mails("a")
            closing.start()
            closing.join(0.1)
            assert closing.is_alive()
            assert backend.connection is not None
            yield from mails("b")

        assert backend.send_messages(coming()) == 2
        closing.join(20)
        assert backend.connection is None
        assert server.connections == 1


def test_backend_made_by_hand_has_the_port_of_its_transport():
    assert EmailHostsBackend("h", use_tls=True).port == 587


ADDRESSES = [
    *("a@b.example", "first.last+tag@sub-domain.example.com", "a_b-c@127", "A@B", "root"),
    *("", "<>", "a@", "@b", "a@b@c", "a..b@c", ".a@c", "a.@c", "a@b..c", "a@.b", "<a@b>"),
    *("Name <a@b.example>", '"a b"@c.example', "a b@c.example", "a@[127.0.0.1]", "a,b@c"),
    *("a@b.example ", "a(c)@b.example", "a@b.example(c)", "a@x\\"),
    *("a@ü.example", "ü@b.example", "a@b, c@d", "a@b\r\nc"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_address_is_quoted_as_by_smtplib(address):
    assert quoted(address) == smtplib.quoteaddr(address)


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has no prep_address()")
@pytest.mark.parametrize("address", [*ADDRESSES, gettext_lazy("a@b.example")])
def test_address_is_prepared_as_by_django(address):  # pragma: prep-address-only
    prepared = []
    for backend in (EmailHostsBackend("h"), EmailBackend(host="h", alias="x")):
        try:
            prepared.append(backend.prep_address(address))
        except (ValueError, IndexError) as error:  # the second is a fault of Python 3.12
            prepared.append(repr(error))
    assert prepared[0] == prepared[1]
