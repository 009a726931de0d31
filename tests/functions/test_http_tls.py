"""TLS: identities are checked, and what fails in the handshake did not reach the function."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runner.clients.secret import Secret
from runner.clients.tls import TlsNotValid, TlsSettings, build_ssl_context
from runner.functions.http import HttpFunction
from runner.model import ErrorKind, Invocation, Outcome, Succeeded, Throttled
from runner.ports import FunctionNotValid

NewInvocation = Callable[..., Invocation]
OpenHttp = Callable[..., Awaitable[HttpFunction]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NewServer = Callable[..., Awaitable[Any]]


class Authority:
    """A certificate authority in a directory, for one test session."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self.name, self.key, authority=True, hosts=[])
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: list[str], password: bytes | None = None) -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, authority=False, hosts=hosts)
        certificate_file, key_file = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encryption = (
            serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
        )
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return certificate_file, key_file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool, hosts: list[str]
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if hosts:
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.2")))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def _server_context(files: tuple[Path, Path], clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    return context


def _unreachable(outcome: Outcome) -> str:
    assert isinstance(outcome, Throttled), outcome
    assert outcome.error.kind is ErrorKind.UNREACHABLE
    return outcome.error.text


async def test_an_unknown_authority_is_refused_unless_it_is_named(
    new_server: NewServer, open_http: OpenHttp, new_invocation: NewInvocation, authority: Authority
) -> None:
    server = await new_server(_server_context(authority.issue("known", ["localhost"])))
    refused = await (await open_http(server.url)).invoke(new_invocation())
    assert "certificate" in _unreachable(refused).lower()
    assert server.requests == []

    accepted = await open_http(server.url, tls=TlsSettings(ca_file=authority.file))
    assert isinstance(await accepted.invoke(new_invocation()), Succeeded)


async def test_the_host_must_match_unless_nothing_is_verified(
    new_server: NewServer, open_http: OpenHttp, new_invocation: NewInvocation, authority: Authority
) -> None:
    server = await new_server(_server_context(authority.issue("other", ["elsewhere.example"])))
    strict = await open_http(server.url, tls=TlsSettings(ca_file=authority.file))
    _unreachable(await strict.invoke(new_invocation()))
    lax = await open_http(server.url, tls=TlsSettings(insecure_skip_verify=True))
    assert isinstance(await lax.invoke(new_invocation()), Succeeded)


def _shown(authority: Authority, certificate_file: Path, key_file: Path) -> TlsSettings:
    return TlsSettings(ca_file=authority.file, certificate_file=certificate_file, key_file=key_file)


async def test_a_client_certificate_is_shown(
    new_server: NewServer, open_http: OpenHttp, new_invocation: NewInvocation, authority: Authority
) -> None:
    server = await new_server(_server_context(authority.issue("mutual", ["localhost"]), clients=authority))
    certificate, key = authority.issue("client", [], password=b"open sesame")
    settings = TlsSettings(
        ca_file=authority.file,
        certificate_file=certificate,
        key_file=key,
        key_password=Secret(literal="open sesame"),
    )
    assert isinstance(await (await open_http(server.url, tls=settings)).invoke(new_invocation()), Succeeded)


@pytest.fixture
async def new_peer() -> AsyncIterator[Callable[[Talk], Awaitable[str]]]:
    """Starts a server that talks as it likes; returns its https URL."""
    running: list[asyncio.Server] = []

    async def start(talk: Talk) -> str:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await talk(reader, writer)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        running.append(server)
        return f"https://localhost:{server.sockets[0].getsockname()[1]}/"

    yield start
    for server in running:
        server.close()
        await server.wait_closed()


def _handshake_until_refused(context: ssl.SSLContext) -> Talk:
    """A server that sends its alert and waits for the client to close, as careful servers do."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
            except ssl.SSLError:
                break
        writer.write(outgoing.read())
        await writer.drain()
        while await reader.read(65_536):
            pass

    return talk


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_that_is_refused_reached_nothing(
    new_peer: Callable[[Talk], Awaitable[str]],
    open_http: OpenHttp,
    new_invocation: NewInvocation,
    authority: Authority,
    stranger: Authority,
    version: ssl.TLSVersion,
) -> None:
    context = _server_context(authority.issue("strict", ["localhost"]), clients=authority)
    context.minimum_version = context.maximum_version = version
    url = await new_peer(_handshake_until_refused(context))
    for settings in (TlsSettings(ca_file=authority.file), _shown(authority, *stranger.issue("client", []))):
        _unreachable(await (await open_http(url, tls=settings)).invoke(new_invocation()))


async def test_a_server_that_speaks_no_tls_is_unreachable(
    new_peer: Callable[[Talk], Awaitable[str]], open_http: OpenHttp, new_invocation: NewInvocation
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        while await reader.read(65_536):
            pass

    _unreachable(await (await open_http(await new_peer(talk))).invoke(new_invocation()))


def test_a_certificate_and_its_key_may_share_a_file(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("both", [])
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    build_ssl_context(TlsSettings(certificate_file=both))


@pytest.fixture
def unusable(authority: Authority, tmp_path: Path) -> dict[str, TlsSettings]:
    certificate, key = authority.issue("sealed", [], password=b"right")
    other_certificate, _ = authority.issue("another", [])
    text = tmp_path / "text.pem"
    text.write_text("no PEM")
    missing = tmp_path / "missing"
    return {
        "wrong password": TlsSettings(certificate_file=certificate, key_file=key, key_password=Secret(literal="wrong")),
        "no password": TlsSettings(certificate_file=certificate, key_file=key),
        "unreadable password": TlsSettings(
            certificate_file=certificate, key_file=key, key_password=Secret(path=missing)
        ),
        "another's key": TlsSettings(
            certificate_file=other_certificate, key_file=key, key_password=Secret(literal="right")
        ),
        "no PEM": TlsSettings(certificate_file=text),
        "missing certificate": TlsSettings(certificate_file=missing),
        "missing authorities": TlsSettings(ca_file=missing),
        "authorities no PEM": TlsSettings(ca_file=text),
        "key alone": TlsSettings(key_file=key),
        "endless password": TlsSettings(
            certificate_file=certificate, key_file=key, key_password=Secret(literal="x" * 5_000)
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "wrong password",
        "no password",
        "unreadable password",
        "another's key",
        "no PEM",
        "missing certificate",
        "missing authorities",
        "authorities no PEM",
        "key alone",
        "endless password",
    ],
)
async def test_files_that_cannot_be_used_are_named(
    unusable: dict[str, TlsSettings], open_http: OpenHttp, case: str
) -> None:
    with pytest.raises(TlsNotValid) as invalid:
        build_ssl_context(unusable[case])
    assert "/" in str(invalid.value)
    assert "wrong" not in str(invalid.value)
    with pytest.raises(FunctionNotValid):
        await open_http("https://localhost/", tls=unusable[case])
