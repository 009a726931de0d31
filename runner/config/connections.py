"""The sections that say how a connection is secured."""

from __future__ import annotations

import enum
from pathlib import Path

from runner.clients.secret import Secret
from runner.config.addresses import ReadableFile
from runner.config.scalars import Choice, Flag, Text
from runner.config.secrets import SecretText
from runner.config.sections import key, section


class SaslMechanism(enum.StrEnum):
    """Kafka's names of the mechanisms."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


AWS_MECHANISMS = {
    "BASIC_AUTH": SaslMechanism.PLAIN,
    "SASL_SCRAM_256_AUTH": SaslMechanism.SCRAM_SHA_256,
    "SASL_SCRAM_512_AUTH": SaslMechanism.SCRAM_SHA_512,
}


@section()
class TlsConfig:
    """TLS. An empty section verifies the server against the system's certificate authorities."""

    ca_file: Path | None = key(
        ReadableFile("a file with PEM certificates"),
        "Certificate authorities to trust instead of the system's.",
        default=None,
    )
    certificate_file: Path | None = key(
        ReadableFile("a file with a PEM certificate chain"), "The client certificate; needs key_file.", default=None
    )
    key_file: Path | None = key(ReadableFile("a file with a PEM key"), "The client certificate's key.", default=None)
    key_password: Secret | None = key(SecretText(), "The password of key_file, when it has one.", default=None)
    insecure_skip_verify: bool = key(
        Flag(), "Accept any server certificate. Whoever is on the path can read and change everything.", default=False
    )


@section()
class SaslConfig:
    """SASL, to be used over TLS."""

    mechanism: SaslMechanism = key(Choice(SaslMechanism, aws=AWS_MECHANISMS), "How to authenticate.")
    username: str = key(Text("a user name", longest=256), "The user.")
    password: Secret = key(SecretText(), "The user's password; one in a file is read again at every connection.")
    allow_plaintext: bool = key(Flag(), "Send credentials over a connection without TLS.", default=False)
