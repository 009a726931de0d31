"""How a client proves and checks identities over TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from runner.clients.secret import Secret, SecretUnreadable


class TlsNotValid(Exception):
    """A certificate, key or password cannot be used. The message names the file, never its content."""


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """``ca_file`` replaces the system's certificate authorities; ``certificate_file`` may hold the key as well."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: Secret | None = None
    insecure_skip_verify: bool = False


def build_ssl_context(settings: TlsSettings) -> ssl.SSLContext:
    """A client's context: certificates and host names are checked unless ``insecure_skip_verify``.

    Reads files; blocks for some ten milliseconds. Raises TlsNotValid.
    """
    context = _trusting(settings.ca_file)
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate_file is not None:
        _load_identity(context, settings.certificate_file, settings)
    elif settings.key_file is not None:
        raise TlsNotValid(f"the key {settings.key_file} has no certificate: certificate_file is missing")
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise TlsNotValid(f"cannot read certificate authorities from {ca_file}: {_reason(error)}") from error


def _load_identity(context: ssl.SSLContext, certificate_file: Path, settings: TlsSettings) -> None:
    key_file = settings.key_file or certificate_file

    def password() -> str:
        # Without a callback OpenSSL would ask for the password on the terminal.
        if settings.key_password is None:
            raise TlsNotValid(f"the key in {key_file} is encrypted and there is no key_password")
        return settings.key_password.reveal()

    try:
        context.load_cert_chain(str(certificate_file), str(key_file), password=password)
    except SecretUnreadable as error:
        raise TlsNotValid(str(error)) from error
    except (OSError, ValueError) as error:
        raise TlsNotValid(
            f"cannot use the certificate {certificate_file} with the key {key_file}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "it is not PEM, or certificate and key do not belong together"
    return getattr(error, "strerror", None) or str(error)
