"""TLS: certificates are always verified, and contexts are shared inside."""

import datetime
import ssl

import pytest
import trustme
from servers import server_context

from email_hosts.exceptions import InvalidEmailHost
from email_hosts.smtp.tls import new_context, shared_context


class TestCertificate:
    """It is always verified."""

    @pytest.mark.parametrize(
        ("identity", "expires", "query"),
        [
            ("127.0.0.1", 2**31 - 1, ""),
            ("other.example.com", 2**31 - 1, "?ssl_cafile={}"),
            ("127.0.0.1", 946684800, "?ssl_cafile={}"),
        ],
        ids=["unknown authority", "foreign", "expired"],
    )
    @pytest.mark.parametrize(("scheme", "implicit"), [("submission", False), ("smtps", True)])
    def test_that_is_not_valid_is_refused(
        self, identity, expires, query, scheme, implicit, start_server, connect, ca, cafile
    ):
        certificate = ca.issue_cert(
            identity,
            not_before=datetime.datetime(1999, 1, 1),
            not_after=datetime.datetime.fromtimestamp(expires, datetime.timezone.utc),
        )
        server = start_server(context=server_context(certificate), implicit=implicit)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(f"{scheme}://127.0.0.1:{server.port}{query.format(cafile)}").open()

    def test_of_the_client_is_shown_to_the_server(
        self, start_server, connect, ca, cafile, tmp_path, message
    ):
        wants_certificate = server_context(ca.issue_cert("127.0.0.1"))
        wants_certificate.verify_mode = ssl.CERT_REQUIRED
        ca.configure_trust(wants_certificate)
        server = start_server(context=wants_certificate)
        files = ca.issue_cert("web.example.com")
        files.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        files.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        certificate = f"&ssl_certfile={tmp_path}/cert.pem&ssl_keyfile={tmp_path}/key.pem"
        dsn = f"submission://127.0.0.1:{server.port}?ssl_cafile={cafile}"
        with pytest.raises(OSError):  # noqa: PT011
            connect(dsn).send_messages([message])
        assert connect(dsn + certificate).send_messages([message]) == 1

    @pytest.mark.parametrize("fail_silently", [True, False])
    @pytest.mark.parametrize("option", ["ssl_cafile={}/missing", "ssl_certfile={}/empty"])
    def test_that_cannot_be_loaded_is_named(self, option, fail_silently, connect, tmp_path):
        (tmp_path / "empty").touch()
        dsn = f"smtps://127.0.0.1:1?{option.format(tmp_path)}"
        host = connect(dsn, fail_silently=fail_silently)
        name = option.partition("=")[0]
        with pytest.raises(InvalidEmailHost, match=rf'^EMAIL_HOSTS\["shop"\]: .* {name}: '):
            host.open()

    def test_with_an_encrypted_key_asks_nobody(self, connect, ca, tmp_path):
        from cryptography.hazmat.primitives import serialization

        files = ca.issue_cert("web.example.com")
        key = serialization.load_pem_private_key(files.private_key_pem.bytes(), None)
        encrypted = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"Kx7vQz9"),
        )
        path = tmp_path / "both.pem"
        path.write_bytes(files.cert_chain_pems[0].bytes() + encrypted)
        with pytest.raises(InvalidEmailHost, match="ssl_certfile"):
            connect(f"smtps://127.0.0.1:1?ssl_certfile={path}").open()


class TestSharedContext:
    """Building one takes over 20 ms."""

    def test_is_one_for_connections_with_the_same_certificates(
        self, start_server, connect, tls, cafile
    ):
        dsn = f"submission://127.0.0.1:{start_server(context=tls).port}?ssl_cafile={cafile}"
        with connect(dsn) as one, connect(dsn) as other:
            assert one.connection.sock.context is other.connection.sock.context
        assert shared_context(str(cafile), "", "") is not shared_context("", "", "")

    def test_of_a_file_that_has_changed_is_another(self, tmp_path):
        contexts = set()
        for _ in range(2):
            trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            contexts.add(shared_context(f"{tmp_path}/ca.pem", "", ""))
        assert len(contexts) == 2

    def test_is_never_a_new_one_that_may_be_changed(self):
        make = [shared_context, new_context, new_context]
        assert len({each("", "", "") for each in make}) == 3

    def test_of_many_certificates_are_kept_in_bounds(self, ca, tmp_path):
        files = [str(tmp_path / f"{number}.pem") for number in range(65)]
        for file in files:
            ca.cert_pem.write_to_path(file)
        first, *_ = [shared_context(file, "", "") for file in files]
        assert shared_context(files[0], "", "") is not first
