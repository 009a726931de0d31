"""How a client proves and checks identities over TLS."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from runner.clients.secret import Secret, SecretUnreadable

_State: TypeAlias = tuple[int, int, int] | None
"""What changes with a file's content: inode, time of change, size; None where there is no file."""


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


class CurrentSslContext:
    """The context of ``settings`` as their files are now: one for all connections until a file changes, since each
    costs tens of milliseconds and, with the system's certificate authorities, close to a megabyte."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._built_from: tuple[_State, ...] = ()

    def get(self) -> ssl.SSLContext:
        """Looks at the files; blocks as ``build_ssl_context`` does when one of them has changed. Raises TlsNotValid.

        May be called by several threads.
        """
        with self._lock:
            state = tuple(_state_of(file) for file in _files_of(self._settings))
            if self._context is None or state != self._built_from:
                self._context = build_ssl_context(self._settings)
                self._built_from = state
            return self._context


def _files_of(settings: TlsSettings) -> tuple[Path | None, ...]:
    password_file = None if settings.key_password is None else settings.key_password.path
    authorities: tuple[Path | None, ...] = (settings.ca_file,)
    if settings.ca_file is None:
        system = ssl.get_default_verify_paths()
        authorities = tuple(Path(each) for each in (system.cafile, system.capath) if each)
    return (*authorities, settings.certificate_file, settings.key_file, password_file)


def _state_of(file: Path | None) -> _State:
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:  # building the context meets it again, and says which file it is
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


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
