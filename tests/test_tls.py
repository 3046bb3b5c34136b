"""TLS: certificates are always verified, and contexts are shared."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from conftest import Connect, ServerFactory
from django.core.mail import EmailMessage
from servers import server_context

from email_hosts.smtp import tls as tls_module
from email_hosts.exceptions import InvalidEmailHost


class TestCertificate:
    """Certificates are always verified."""

    def test_of_a_private_authority_needs_its_ca(
        self, start_server: ServerFactory, connect: Connect, tls: ssl.SSLContext
    ) -> None:
        server = start_server(context=tls)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(f"submission://127.0.0.1:{server.port}").open()

    @pytest.mark.parametrize(
        ("identity", "expires"),
        [("other.example.com", 2**31 - 1), ("127.0.0.1", 946684800)],
        ids=["foreign", "expired"],
    )
    @pytest.mark.parametrize(("scheme", "implicit"), [("submission", False), ("smtps", True)])
    def test_foreign_or_expired_is_refused(
        self,
        identity: str,
        expires: int,
        scheme: str,
        implicit: bool,
        start_server: ServerFactory,
        connect: Connect,
        ca: trustme.CA,
        cafile: Path,
    ) -> None:
        not_after = datetime.datetime.fromtimestamp(expires, datetime.timezone.utc)
        certificate = ca.issue_cert(
            identity, not_before=datetime.datetime(1999, 1, 1), not_after=not_after
        )
        # aiosmtpd itself connects to a TLS port first, and would not trust it either.
        server = start_server(context=server_context(certificate), implicit=implicit)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(f"{scheme}://127.0.0.1:{server.port}?ssl_cafile={cafile}").open()

    def test_of_the_client_is_shown_to_the_server(
        self,
        start_server: ServerFactory,
        connect: Connect,
        ca: trustme.CA,
        cafile: Path,
        tmp_path: Path,
        message: EmailMessage,
    ) -> None:
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
    @pytest.mark.parametrize(
        "option", ["ssl_cafile={}/missing", "ssl_certfile={}/empty", "ssl_cafile={}/empty"]
    )
    def test_that_cannot_be_loaded_is_named(
        self, option: str, fail_silently: bool, connect: Connect, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").touch()
        host = connect(
            f"smtps://127.0.0.1:1?{option.format(tmp_path)}", fail_silently=fail_silently
        )
        with pytest.raises(InvalidEmailHost, match="cannot load ssl_") as caught:
            host.open()
        assert str(caught.value).startswith('EMAIL_HOSTS["shop"]: ')

    def test_with_an_encrypted_key_asks_nobody(
        self, connect: Connect, ca: trustme.CA, tmp_path: Path
    ) -> None:
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
        with pytest.raises(InvalidEmailHost, match="cannot load ssl_certfile"):
            connect(f"smtps://127.0.0.1:1?ssl_certfile={path}").open()


class TestTLSContext:
    """Building one takes over 20 ms."""

    def test_is_shared_by_hosts_with_the_same_certificates(
        self, connect: Connect, cafile: Path
    ) -> None:
        contexts = [
            connect(f"smtps://{host}?ssl_cafile={cafile}").ssl_context for host in ("a", "b")
        ]
        assert contexts[0] is contexts[1]
        assert connect("smtps://a").ssl_context is not contexts[0]

    def test_verifies_certificate_and_name(self, connect: Connect) -> None:
        context = connect("smtps://a").ssl_context
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)

    def test_is_made_anew_for_a_renewed_certificate(
        self, connect: Connect, tmp_path: Path
    ) -> None:
        host = connect(f"smtps://a?ssl_cafile={tmp_path}/ca.pem")
        contexts = set()
        for _ in range(2):
            trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            contexts.add(host.ssl_context)
        assert len(contexts) == 2


def test_tls_contexts_are_kept_in_bounds() -> None:
    assert tls_module._context.cache_parameters()["maxsize"] == 64
