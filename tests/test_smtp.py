"""SMTP hosts, against real servers."""

import copy
import logging
import smtplib
import socket
import ssl
import threading
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from unittest import mock

import django
import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.utils.translation import gettext_lazy
from scripted import BODY, HANG, any_of, at, to

from email_hosts.backends import EmailHostsBackend, connection_from_dsn
from email_hosts.exceptions import InvalidEmailHost
from email_hosts.testing import real_hosts

LOGIN = ("me@example.com", "p/a?s#s+")
ENCODED_LOGIN = "me%40example.com:p%2Fa%3Fs%23s+"


class TestMessage:
    """It reaches the server as the host sends it."""

    @pytest.mark.parametrize(
        ("scheme", "implicit"),
        [("submission", False), ("smtp+tls", False), ("submissions", True), ("smtps", True)],
    )
    def test_travels_through_tls_and_login(
        self, scheme, implicit, start_server, connect, tls, cafile, message
    ):
        server = start_server(context=tls, implicit=implicit, login=LOGIN)
        host = connect(
            f"{scheme}://{ENCODED_LOGIN}@127.0.0.1:{server.port}?ssl_cafile={cafile}"
            "&_default_from_email=Bücher <laden@bücher.example>&local_hostname=web.example.com"
        )
        assert host.send_messages([message]) == 1
        (received,) = server.received
        assert (received.user, received.tls) == (LOGIN[0], True)
        assert received.local_hostname == "web.example.com"
        assert received.sender == "laden@xn--bcher-kva.example"
        assert received.recipients == ["someone@example.net"]
        sender = received.message["From"].addresses[0]
        assert (sender.display_name, sender.domain) == ("Bücher", "xn--bcher-kva.example")

    def test_travels_without_tls(self, start_server, connect, message):
        server = start_server()
        assert connect(f"smtp://127.0.0.1:{server.port}").send_messages([message]) == 1
        (received,) = server.received
        assert (received.user, received.tls) == (None, False)
        assert received.sender == "project@example.com"

    def test_has_its_from_header_and_the_envelope_of_the_host(
        self, start_server, connect, new_message
    ):
        server = start_server()
        host = connect(f"smtp://127.0.0.1:{server.port}?_default_from_email=shop@example.com")
        host.send_messages([new_message(headers={"From": "me@example.com"})])
        (received,) = server.received
        assert received.sender == "shop@example.com"
        assert received.message["From"] == "me@example.com"

    def test_to_nobody_is_not_sent(self, start_server, connect, new_message):
        server = start_server()
        host = connect(f"smtp://127.0.0.1:{server.port}")
        assert host.send_messages([new_message(to=[])]) == 0
        assert server.received == []


class TestBatch:
    """Several messages."""

    def test_shares_one_connection(self, serve, connect, new_message):
        server = serve()
        host = connect(f"smtp://127.0.0.1:{server.port}")
        assert host.send_messages([new_message() for _ in range(3)]) == 3
        with host:
            assert host.open() is False
            host.send_messages([new_message()])
            assert host.connection is not None
        assert (server.connections, len(server.accepted)) == (2, 4)

    @pytest.mark.parametrize("bad", [{"to": ["a@b\nc@d"]}, {"headers": {"X": "a\nb"}}])
    def test_ends_at_a_message_that_cannot_be_made(self, bad, serve, connect, new_message):
        server = serve()
        batch = [new_message(), new_message(**bad), new_message()]
        with pytest.raises(ValueError, match=r"[Ii]nvalid|Header"):
            connect(f"smtp://127.0.0.1:{server.port}").send_messages(batch)
        assert len(server.accepted) == 1

    def test_ends_at_a_failure(self, start_server, connect, new_message):
        server = start_server(refused=["b@example.net"])
        batch = [new_message(to=[f"{name}@example.net"]) for name in "abc"]
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            connect(f"smtp://127.0.0.1:{server.port}").send_messages(batch)
        assert [received.recipients for received in server.received] == [["a@example.net"]]

    def test_does_not_end_at_a_failure_that_is_passed_over(
        self, start_server, connect, new_message
    ):
        server = start_server(refused=["b@example.net"])
        batch = [new_message(to=[f"{name}@example.net"]) for name in "abc"]
        host = connect(f"smtp://127.0.0.1:{server.port}", fail_silently=True)
        assert host.send_messages(batch) == len(server.received) == 2


class TestFailure:
    """A send that fails raises an OSError, or is logged."""

    def test_to_log_in_leaves_nothing_open(self, start_server, connect, tls, cafile, message):
        server = start_server(context=tls, login=LOGIN)
        host = connect(f"submission://x:y@127.0.0.1:{server.port}?ssl_cafile={cafile}")
        for _ in range(2):
            with pytest.raises(smtplib.SMTPAuthenticationError):
                host.send_messages([message])
        assert host.connection is None

    @pytest.mark.parametrize("login", ["%C3%BCser:pw", "user:%C3%BCpw"])
    def test_to_encode_the_login_is_told_before_connecting(self, connect, login):
        with pytest.raises(InvalidEmailHost, match="must be ASCII"):
            connect(f"smtp://{login}@127.0.0.1:1").open()

    def test_to_log_in_at_all_is_an_error(self, start_server, connect, message):
        server = start_server(login=LOGIN)
        with pytest.raises(smtplib.SMTPSenderRefused, match="log in first"):
            connect(f"smtp://127.0.0.1:{server.port}").send_messages([message])

    def test_to_understand_the_challenge_is_an_smtp_error(self, serve, connect):
        server = serve(at("AUTH", "334 !!!notb64=a"), extensions=["AUTH CRAM-MD5"])
        with pytest.raises(smtplib.SMTPException, match="challenge makes no sense"):
            connect(f"smtp://user:pw@127.0.0.1:{server.port}").open()

    def test_to_get_tls_is_no_reason_to_go_without(self, start_server, connect, message):
        server = start_server()
        host = connect(f"submission://127.0.0.1:{server.port}", fail_silently=True)
        assert [host.send_messages([message]) for _ in range(2)] == [0, 0]
        assert server.received == []

    def test_to_connect_is_an_error(self, connect, closed_port, message):
        with pytest.raises(ConnectionRefusedError):
            connect(f"smtp://127.0.0.1:{closed_port}").send_messages([message])

    @pytest.mark.parametrize(
        ("scheme", "is_told"), [("smtp", True), ("submission", True), ("submissions", False)]
    )
    def test_to_answer_ends_in_time_and_tells_the_likely_cause(
        self, scheme, is_told, connect, message
    ):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = connect(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}?timeout=0.1")
            with pytest.raises(OSError, match="timed out") as caught:
                host.send_messages([message])
        assert ("use submissions://" in str(caught.value)) is is_told

    def test_to_say_goodbye_loses_no_accepted_message(self, start_server, connect, message):
        server = start_server()
        with connect(f"smtp://127.0.0.1:{server.port}") as host:
            assert host.send_messages([message]) == 1
            host.connection.sock.shutdown(socket.SHUT_WR)
        assert len(server.received) == 1

    def test_to_answer_quit_is_not_waited_for(self, serve, message, monkeypatch):
        monkeypatch.setattr("email_hosts.smtp.connection.QUIT_TIMEOUT", 0.01)
        server = serve(at("QUIT", HANG))
        assert EmailHostsBackend("127.0.0.1", server.port).send_messages([message]) == 1

    @pytest.mark.parametrize(
        ("script", "logged"),
        [
            (at("banner", "554 no"), "SMTPConnectError 554"),
            (at("MAIL", "530 log in first"), "SMTPSenderRefused 530"),
            (to("@", "550 no"), "SMTPRecipientsRefused"),
        ],
    )
    def test_that_is_passed_over_is_logged_without_recipients(
        self, script, logged, serve, connect, message, caplog
    ):
        host = connect(f"smtp://127.0.0.1:{serve(script).port}", fail_silently=True)
        assert host.send_messages([message]) == 0
        assert caplog.messages == [f'host "shop": {logged}, ignored by fail_silently']

    def test_without_a_key_is_logged_by_its_address(self, closed_port, caplog):
        host = EmailHostsBackend("127.0.0.1", closed_port, fail_silently=True)
        assert host.open() is None
        assert caplog.messages == [
            f"127.0.0.1:{closed_port}: ConnectionRefusedError, ignored by fail_silently"
        ]


class TestRefusedRecipients:
    """The replies to those who do not get a message that others get."""

    def test_are_logged_without_addresses(self, serve, connect, new_message, caplog):
        server = serve(any_of(to("b@", "550 no"), to("c@", "450 later")))
        host = connect(f"smtp://127.0.0.1:{server.port}")
        assert host.send_messages([new_message(to=["a@x.net", "b@x.net", "c@x.net"])]) == 1
        assert caplog.messages == ['host "shop": refused recipients: 2 [450, 550]']

    def test_are_those_of_the_last_send(self, serve, connect, new_message):
        host = connect(f"smtp://127.0.0.1:{serve(to('b@', '550 no')).port}")
        host.send_messages([new_message(to=["a@x.net", "b@x.net"])])
        assert host.refused_recipients == {"b@x.net": (550, b"no")}
        host.send_messages([new_message(to=["a@x.net"])])
        assert host.refused_recipients == {}


class TestReply:
    """What a server says does not show the login that it repeats."""

    USERNAME, PASSWORD = "Kx7vQz9", "Kx7vQz9Wj4bYt2"

    def host(self, connect, server):
        return connect(f"smtp://{self.USERNAME}:{self.PASSWORD}@127.0.0.1:{server.port}")

    @pytest.mark.parametrize("step", ["AUTH", "MAIL", "RCPT", BODY])
    def test_in_an_error(self, step, serve, connect, message):
        plain = b64encode(f"\0{self.USERNAME}\0{self.PASSWORD}".encode()).decode()
        alone = b64encode(self.USERNAME.encode()).decode()
        reply = f"550 not for {self.USERNAME} {self.PASSWORD} {plain} {alone}"
        script = any_of(at(step, reply), at("AUTH", "235 welcome"))
        server = serve(script, extensions=["AUTH PLAIN"])
        with pytest.raises(smtplib.SMTPException) as caught:
            self.host(connect, server).send_messages([message])
        assert "not for ***** ***** ***** *****" in str(caught.value)
        shown = repr(vars(caught.value))
        assert not any(word in shown for word in (self.USERNAME, plain, alone))

    def test_in_a_challenge(self, serve, connect):
        repeated = b64encode(self.USERNAME.encode()).decode()

        def ask_again(step, argument):
            return None if step in {"banner", "EHLO", "QUIT"} else f"334 {repeated}"

        server = serve(ask_again, extensions=["AUTH LOGIN"])
        with pytest.raises(smtplib.SMTPException, match=r"infinite loop.*\*{5}") as caught:
            self.host(connect, server).open()
        assert repeated.rstrip("=") not in str(caught.value)

    def test_in_refused_recipients(self, serve, connect, new_message):
        script = any_of(to("b@", f"550 not for {self.USERNAME}"), at("AUTH", "235 welcome"))
        host = self.host(connect, serve(script, extensions=["AUTH PLAIN"]))
        assert host.send_messages([new_message(to=["a@x.net", "b@x.net"])]) == 1
        assert host.refused_recipients == {"b@x.net": (550, b"not for *****")}


class TestConnection:
    """``backend.connection``, as Django's backend has it."""

    def test_that_is_not_open_can_be_closed(self, connect):
        connect("smtp://127.0.0.1:1").close()

    def test_may_be_set(self, message):
        backend = EmailHostsBackend("smtp.example.com", conn_max_age=60)
        backend.connection = mock.Mock()
        sendmail, connection_quit = backend.connection.sendmail, backend.connection.quit
        assert backend.send_messages([message]) == 1
        assert sendmail.call_args.args[:2] == ("project@example.com", ["someone@example.net"])
        connection_quit.assert_not_called()
        backend.close()
        connection_quit.assert_called_once_with()
        assert backend.connection is None

    def test_of_smtplib_may_be_set(self, serve, message):
        server = serve()
        backend = EmailHostsBackend("smtp.example.com")
        backend.connection = smtplib.SMTP("127.0.0.1", server.port)
        with backend:
            assert backend.send_messages([message]) == 1
        assert server.commands[-1] == "quit"

    @pytest.mark.parametrize("place", ["class", "instance"])
    def test_is_asked_where_sendmail_is_a_mock(self, place, serve, message):
        with EmailHostsBackend("127.0.0.1", serve().port) as backend:
            owner = smtplib.SMTP if place == "class" else backend.connection
            with mock.patch.object(owner, "sendmail", return_value={}) as sendmail:
                assert backend.send_messages([message]) == 1
            sendmail.assert_called_once()

    @pytest.mark.parametrize("method", ["mail", "rcpt", "data", "docmd", "rset", "quit"])
    @pytest.mark.parametrize("place", ["class", "instance"])
    def test_is_asked_where_another_method_is_a_mock(self, place, method, serve, message):
        server = serve(at("MAIL", "550 no") if method == "rset" else None)
        backend = EmailHostsBackend("127.0.0.1", server.port)
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

    @pytest.mark.parametrize("is_mock", [True, False])
    def test_that_was_set_or_changed_is_the_only_one(self, is_mock, serve, new_message):
        """Those of ``parallel`` do not join it."""
        server = serve()
        batch = [new_message(to=[f"{number}@example.net"]) for number in range(4)]
        backend = EmailHostsBackend("127.0.0.1", server.port, parallel=4)
        if is_mock:
            backend.connection = mock.Mock()
        else:
            backend.open()
        with mock.patch.object(backend.connection, "sendmail", return_value={}) as sendmail:
            assert backend.send_messages(batch) == 4
        backend.close()
        assert sendmail.call_count == 4
        assert server.accepted == []

    def test_that_was_set_may_be_any_object(self, message, caplog):
        """Its state is in the debug records, too."""
        caplog.set_level(logging.DEBUG, "email_hosts")
        backend = EmailHostsBackend("smtp.example.com", conn_max_age=60)
        backend.connection = mock.Mock(spec=["sendmail", "quit"])
        assert backend.send_messages([message]) == 1
        backend.close()
        assert "closed, 1 messages>: discarded" in caplog.text

    def test_is_asked_where_its_class_has_a_sendmail_of_its_own(self, serve, new_message):
        calls = []

        class Own(smtplib.SMTP):
            def sendmail(self, *args, **options):
                calls.append(args[1])
                if len(calls) == 2:
                    raise smtplib.SMTPDataError(554, b"no")
                return super().sendmail(*args, **options)

        server = serve()
        batch = [new_message(to=[name]) for name in ("a@x.net", "b@x.net", "c@x.net")]
        with mock.patch.object(EmailHostsBackend, "connection_class", Own):
            for _ in range(2):
                backend = EmailHostsBackend("127.0.0.1", server.port, fail_silently=True)
                backend.conn_max_age = 60
                backend.send_messages(batch)
        assert calls == 2 * [["a@x.net"], ["b@x.net"], ["c@x.net"]]
        assert len(server.accepted) == 5
        assert server.connections == 2  # for nobody knows whether it is in step

    def test_sends_small_writes_at_once(self, start_server):
        with EmailHostsBackend("127.0.0.1", start_server().port) as backend:
            sock = backend.connection.sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    def test_that_has_only_begun_with_tls_can_be_closed(
        self, start_server, connect, tls, cafile
    ):
        dsn = f"127.0.0.1:{start_server(context=tls).port}?ssl_cafile={cafile}&conn_max_age=60"
        backend = connect(f"submission://{dsn}")
        tls_1_2 = ssl.TLSVersion.TLSv1_2  # later ones begin to talk
        backend.ssl_context.maximum_version = tls_1_2
        backend.open()
        backend.close()
        assert backend.connection is None

    def test_is_closed_after_a_send_in_another_thread(self, serve, monkeypatch):
        backend = EmailHostsBackend("127.0.0.1", serve().port)
        backend.open()
        lock = backend._lock
        is_waiting = threading.Event()

        class Lock:
            """Tells that somebody wants it."""

            def __enter__(self):
                is_waiting.set()
                lock.acquire()

            def __exit__(self, *exc_info):
                lock.release()

        closing = threading.Thread(target=backend.close)
        with lock:
            monkeypatch.setattr(backend, "_lock", Lock())
            closing.start()
            assert is_waiting.wait(20)
            assert backend.connection is not None
        closing.join()
        assert backend.connection is None

    def test_of_a_copy_is_its_own(self, serve, new_message):
        """Both may send at the same time."""
        server = serve()
        with (
            EmailHostsBackend("127.0.0.1", server.port) as backend,
            ThreadPoolExecutor(1) as thread,
        ):
            other = copy.copy(backend)
            assert other.connection is None

            def messages():
                yield new_message()
                assert thread.submit(other.send_messages, [new_message()]).result(20) == 1

            assert backend.send_messages(messages()) == 1
        assert (server.connections, len(server.accepted)) == (2, 2)


def test_tls_at_a_port_for_starttls_says_which_scheme_to_write(start_server, connect, tls):
    server = start_server(context=tls)
    with pytest.raises(ssl.SSLError, match="submission:// is for STARTTLS") as caught:
        connect(f"submissions://127.0.0.1:{server.port}").open()
    assert "SSL" in str(caught.value)


class TestTLSContext:
    """``ssl_context``, which Django's backend has too."""

    def test_is_of_one_connection_alone(self, start_server, connect, tls, cafile):
        """Who switches off verification does so for nobody else."""
        dsn = f"submission://127.0.0.1:{start_server(context=tls).port}"
        host = connect(dsn)
        host.ssl_context.check_hostname = False
        host.ssl_context.verify_mode = ssl.CERT_NONE
        with host:
            assert host.connection.sock.context is host.ssl_context
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(dsn).open()

    def test_may_be_set(self, start_server, connect, tls, cafile):
        host = connect(f"smtps://127.0.0.1:{start_server(context=tls, implicit=True).port}")
        host.ssl_context = ssl.create_default_context(cafile=cafile)
        with host:
            assert host.connection.sock.context is host.ssl_context

    @pytest.mark.parametrize("implicit", [True, False])
    def test_of_a_subclass_is_used(self, implicit, start_server, tls, cafile):
        """Django's release notes tell users to override it. This one trusts nobody."""

        class Strict(EmailHostsBackend):
            @property
            def ssl_context(self):
                return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        server = start_server(context=tls, implicit=implicit)
        options = {"use_ssl": implicit, "use_tls": not implicit, "ssl_cafile": str(cafile)}
        with EmailHostsBackend("127.0.0.1", server.port, **options):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            Strict("127.0.0.1", server.port, **options).open()

    def test_verifies_certificate_and_name(self, connect):
        context = connect("smtps://a").ssl_context
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)

    @pytest.mark.parametrize("is_trusting", [True, False])
    def test_of_its_own_shares_no_parked_connection(
        self, is_trusting, start_server, connect, tls, cafile
    ):
        server = start_server(context=tls)
        dsn = f"submission://127.0.0.1:{server.port}?conn_max_age=60&ssl_cafile={cafile}"
        hosts = [connect(dsn), connect(dsn)]
        hosts[is_trusting].ssl_context.verify_mode = ssl.CERT_REQUIRED
        for host in hosts:
            with host:
                pass
        assert len(server.sessions) == 3  # one is of aiosmtpd


class TestAllow:
    """``allow(host, port)`` says which servers may be used."""

    def test_is_asked_before_anything_else(self):
        with pytest.raises(InvalidEmailHost, match="the server is not allowed"):
            connection_from_dsn("smtp://smtp.example.com", allow=lambda host, port: port != 25)

    @pytest.mark.parametrize("fail_silently", [True, False])
    @real_hosts()
    def test_of_no_address_is_an_error(self, fail_silently):
        backend = connection_from_dsn(
            "smtp://localhost:1",
            allow=lambda host, port: host == "localhost",
            fail_silently=fail_silently,
        )
        with pytest.raises(InvalidEmailHost, match="no address of the server is allowed"):
            backend.open()


@pytest.mark.parametrize(
    ("options", "port"),
    [({}, 25), ({"use_tls": True}, 587), ({"use_ssl": True}, 465), ({"port": 26}, 26)],
)
def test_backend_without_a_dsn_has_the_port_of_its_transport(options, port):
    assert EmailHostsBackend("h", **options).port == port


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, r'^MAILERS\["shop"\]: option \'host\' is missing'),
        ({"host": "h", "use_ssl": True, "use_tls": True}, "mutually exclusive"),
        ({"host": "h", "parallel": 0}, "'parallel' must be a whole number from 1 to 50"),
        ({"host": "h", "parallel": 51}, "'parallel' must be a whole number from 1 to 50"),
        ({"host": "h", "timout": 5}, "unknown option 'timout'; did you mean 'timeout'"),
    ],
)
def test_option_that_does_not_fit_is_refused(options, problem):
    with pytest.raises(InvalidEmailHost, match=problem):
        EmailHostsBackend(**options, alias="shop")


@pytest.mark.parametrize("attribute", ["connection", "ssl_context"])
def test_attribute_may_be_patched_and_is_as_it_was_afterwards(attribute, serve):
    server = serve()
    with EmailHostsBackend("127.0.0.1", server.port) as backend:
        before = getattr(backend, attribute)
        with mock.patch.object(backend, attribute, mock.MagicMock()) as patched:
            assert getattr(backend, attribute) is patched
        assert getattr(backend, attribute) is before
        backend.send_messages([EmailMessage("Hello", to=["a@example.net"])])
    assert (len(server.accepted), server.connections) == (1, 1)


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has no prep_address()")
@pytest.mark.parametrize(
    "address",
    [
        *("a@b.example", "first.last+tag@sub-domain.example.com", "a_b-c@127", "A@B", "root"),
        *("Name <a@b.example>", '"a b"@c.example', "a@ü.example", "a@[127.0.0.1]"),
        *("", "a@", "@b", "a..b@c", "a@b..c", "a@b@c", "ü@b.example", "a@b, c@d", "a@b\r\nc"),
        gettext_lazy("a@b.example"),
    ],
)
def test_addresses_are_prepared_as_djangos_backend_does(address):  # pragma: prep-address-only
    def prepared(backend):
        try:
            return backend.prep_address(address)
        except (ValueError, IndexError) as error:  # the second is a fault of Python 3.12
            return repr(error)

    assert prepared(EmailHostsBackend("h")) == prepared(EmailBackend(host="h", alias="x"))
