"""What contradicts itself, or is risky, in how a connection is secured."""

from __future__ import annotations

from runner.config.codes import Code
from runner.config.connections import SaslConfig, TlsConfig
from runner.config.judgement import Judged, JudgedMapping


def check(mapping: JudgedMapping) -> None:
    """Report what is wrong or risky in the connections of ``mapping``."""
    if mapping.kafka is not None:
        check_tls(mapping, "source.kafka.tls", mapping.kafka.tls)
        _check_sasl(mapping, "source.kafka", mapping.kafka.sasl)
    destination = mapping.on_failure.kafka if mapping.on_failure else None
    if destination is not None:
        section = "destination_config.on_failure.kafka"
        check_tls(mapping, f"{section}.tls", destination.tls)
        _check_sasl(mapping, section, destination.sasl)


def check_tls(judged: Judged, section: str, tls: TlsConfig | None) -> None:
    """``section`` is where ``tls`` stands."""
    if tls is None:
        return
    for present, missing in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if judged.written(f"{section}.{present}") and not judged.written(f"{section}.{missing}"):
            judged.report(
                Code.CERTIFICATE_WITHOUT_KEY,
                f"{section}.{present}",
                f"{present} without {missing}",
                f"a client certificate needs both: add {missing}, or remove {present}",
                points_at_key=True,
            )
    if judged.written(f"{section}.key_password") and not judged.written(f"{section}.key_file"):
        judged.report(
            Code.CERTIFICATE_WITHOUT_KEY,
            f"{section}.key_password",
            "key_password without key_file",
            "add key_file, or remove key_password",
            points_at_key=True,
        )
    if tls.insecure_skip_verify:
        judged.report(
            Code.TLS_UNVERIFIED,
            f"{section}.insecure_skip_verify",
            "the server's certificate is not verified",
            "name its certificate authority in ca_file instead",
            points_at_key=True,
        )


def _check_sasl(judged: Judged, section: str, sasl: SaslConfig | None) -> None:
    if sasl is None or judged.written(f"{section}.tls") or not judged.known(f"{section}.sasl.allow_plaintext"):
        return
    if sasl.allow_plaintext:
        judged.report(
            Code.SASL_PLAINTEXT,
            f"{section}.sasl.allow_plaintext",
            "credentials are sent over a connection that is not encrypted",
            "add tls to the section that holds sasl",
            points_at_key=True,
        )
    else:
        judged.report(
            Code.SASL_WITHOUT_TLS,
            f"{section}.sasl",
            "sasl without tls would send credentials over a connection that is not encrypted",
            "add tls beside sasl ({} for its defaults), or say allow_plaintext: true",
            points_at_key=True,
        )
