"""What contradicts itself within one function."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from runner.config.codes import Code
from runner.config.connection_checks import check_tls
from runner.config.functions import HttpFunctionConfig
from runner.config.judgement import JudgedFunction
from runner.config.units import format_duration


def check(function: JudgedFunction) -> None:
    """Report what contradicts itself in ``function``."""
    _check_concurrency(function)
    http = function.function.http
    if http is not None and function.known("http"):
        _check_timeouts(function, http)
        _check_authorization(function, http)
        _check_transport(function, http)
        check_tls(function, "http.tls", http.tls)


def _check_concurrency(function: JudgedFunction) -> None:
    reserved = function.function.reserved_concurrency
    limits = function.config.limits
    if reserved is None or not function.reading.known(("limits", "concurrency")):
        return
    if reserved > limits.concurrency:
        function.report(
            Code.CONCURRENCY_OVER_LIMIT,
            "reserved_concurrency",
            f"reserved_concurrency {reserved} is more than the {limits.concurrency} of limits.concurrency",
            "lower it, or raise limits.concurrency",
        )


def _check_timeouts(function: JudgedFunction, http: HttpFunctionConfig) -> None:
    if function.known("http.timeout", "http.connect_timeout") and http.connect_timeout > http.timeout:
        function.report(
            Code.CONNECT_TIMEOUT_OVER_TIMEOUT,
            "http.connect_timeout",
            f"connect_timeout {format_duration(http.connect_timeout)} is longer than the timeout "
            f"{format_duration(http.timeout)}, of which it is a part",
            "lower it, or raise the timeout",
        )


def _check_authorization(function: JudgedFunction, http: HttpFunctionConfig) -> None:
    name = next((name for name in http.headers if name.lower() == "authorization"), None)
    if name is not None and function.written("http.bearer_token"):
        function.report(
            Code.AUTHORIZATION_TWICE,
            "http.bearer_token",
            f"bearer_token and the header '{name}' both say who we are",
            "keep one of them",
        )


def _check_transport(function: JudgedFunction, http: HttpFunctionConfig) -> None:
    if not function.known("http.url"):
        return
    encrypted = http.url.lower().startswith("https:")
    if function.written("http.tls") and not encrypted:
        function.report(
            Code.TLS_WITHOUT_HTTPS,
            "http.tls",
            "tls has no meaning for an http:// URL",
            "write https:// in the URL, or remove tls",
            points_at_key=True,
        )
    if http.bearer_token is not None and not encrypted and not _is_this_machine(http.url):
        function.report(
            Code.TOKEN_UNENCRYPTED,
            "http.bearer_token",
            "bearer_token is sent over a connection that is not encrypted",
            "write https:// in the URL",
            points_at_key=True,
        )


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, not an address
        return host == "localhost" or host.endswith(".localhost")
