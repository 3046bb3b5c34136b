"""TLS: certificates are always verified, and contexts are shared inside."""

import re
import ssl
from unittest import mock

import pytest
from servers import server_context

from email_hosts.backends import EmailHostsBackend
from email_hosts.exceptions import InvalidEmailHost

either_transport = pytest.mark.parametrize(
    ("scheme", "implicit"), [("submission", False), ("smtps", True)]
)


@pytest.fixture
def client_files(ca, tmp_path):
    """The certificate of a client, and its key."""
    issued = ca.issue_cert("web.example.com")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


class TestCertificate:
    @pytest.mark.parametrize(
        ("identity", "query", "hint"),
        [
            ("127.0.0.1", "", "an authority of your own, name its file in ssl_cafile"),
            ("other.example.com", "?ssl_cafile={}", "the name of the server that its cert"),
        ],
    )
    @either_transport
    def test_that_is_not_valid_is_refused(
        self, identity, query, hint, scheme, implicit, start_server, connect, ca, cafile
    ):
        context = server_context(ca.issue_cert(identity))
        server = start_server(context=context, implicit=implicit)
        with pytest.raises(ssl.SSLCertVerificationError, match=hint):
            connect(f"{scheme}://127.0.0.1:{server.port}{query.format(cafile)}").open()

    def test_of_the_client_is_shown_to_the_server(
        self, start_server, connect, ca, cafile, client_files, message
    ):
        wants_certificate = server_context(ca.issue_cert("127.0.0.1"))
        wants_certificate.verify_mode = ssl.CERT_REQUIRED
        ca.configure_trust(wants_certificate)
        server = start_server(context=wants_certificate)
        certificate, key = client_files
        dsn = f"submission://127.0.0.1:{server.port}?ssl_cafile={cafile}"
        with pytest.raises(OSError):  # noqa: PT011
            connect(dsn).send_messages([message])
        with_certificate = f"{dsn}&ssl_certfile={certificate}&ssl_keyfile={key}"
        assert connect(with_certificate).send_messages([message]) == 1

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ("ssl_cafile=/no/such", "ssl_cafile (/no/such)"),
            ("ssl_certfile={0}", "ssl_certfile ({0})"),  # without its key
            ("ssl_certfile={0}&ssl_keyfile={0}", "ssl_certfile ({0}), ssl_keyfile ({0})"),
        ],
    )
    def test_that_cannot_be_loaded_is_named(self, query, named, connect, client_files):
        dsn = f"smtps://127.0.0.1:1?{query.format(*client_files)}"
        told = re.escape(f'EMAIL_HOSTS["shop"]: cannot load {named.format(*client_files)}: ')
        with pytest.raises(InvalidEmailHost, match=f"^{told}"):
            connect(dsn, fail_silently=True).open()


def test_error_that_says_all_has_no_hint(connect):
    error = ssl.SSLError(1, "out of memory")
    with (
        mock.patch("socket.create_connection", side_effect=error),
        pytest.raises(ssl.SSLError),
    ):
        connect("smtps://127.0.0.1:1").open()
    assert error.strerror == "out of memory"


class TestContext:
    """``ssl_context``, as Django's backend has it. Inside one is shared: it takes 20 ms."""

    def test_is_one_until_a_file_changes(self, start_server, connect, tls, ca, tmp_path):
        cafile, contexts = tmp_path / "ca.pem", []
        dsn = f"submission://127.0.0.1:{start_server(context=tls).port}?ssl_cafile={cafile}"
        for _ in range(2):
            ca.cert_pem.write_to_path(cafile)
            for _ in range(2):
                with connect(dsn) as one:
                    contexts.append(one.connection.sock.context)
        assert contexts[0] is contexts[1] is not contexts[2] is contexts[3]

    def test_that_can_be_changed_is_of_one_connection_alone(self, start_server, connect, tls):
        """Who switches off verification does so for nobody else."""
        dsn = f"submission://127.0.0.1:{start_server(context=tls).port}"
        host = connect(dsn)
        host.ssl_context.check_hostname = False
        host.ssl_context.verify_mode = ssl.CERT_NONE
        with host:
            assert host.connection.sock.context is host.ssl_context
        for other in (connect(dsn), connect(dsn)):
            with pytest.raises(ssl.SSLCertVerificationError):
                other.open()
            assert other.ssl_context.verify_mode is ssl.CERT_REQUIRED

    @either_transport
    def test_of_a_subclass_is_used(self, scheme, implicit, start_server, tls, cafile):
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
