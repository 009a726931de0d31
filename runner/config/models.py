"""The top level of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from runner.config.addresses import Address, ListenAddress, parse_address
from runner.config.diagnostics import Diagnostic
from runner.config.functions import FunctionConfig
from runner.config.mappings import NAME_EXPECTS, NAME_PATTERN, MappingConfig
from runner.config.scalars import Size, WholeNumber
from runner.config.sections import Named, Section, key, section

_MOST_CONCURRENCY: Final = 100_000


@section()
class Limits:
    """What this process may use, all mappings together."""

    concurrency: int = key(WholeNumber(1, _MOST_CONCURRENCY), "Invocations at once.", default=1000)
    buffer_bytes: int = key(Size(1000, 1 << 40), "Unsettled records in memory.", default=256_000_000)


@section()
class Admin:
    """The HTTP server for metrics and health."""

    listen: str | None = key(ListenAddress(), "host:port, [IPv6]:port, or off.", default="127.0.0.1:9464")

    @property
    def host(self) -> str | None:
        """Without the brackets of IPv6; None when the server is off."""
        return None if self._address is None else self._address.host

    @property
    def port(self) -> int | None:
        return None if self._address is None else self._address.port

    @property
    def _address(self) -> Address | None:
        return None if self.listen is None else parse_address(self.listen)


@section()
class Config:
    """One process: its limits, its functions, and the mappings that invoke them."""

    limits: Limits = key(Section(Limits), "What this process may use.", default=Limits())
    admin: Admin = key(Section(Admin), "The HTTP server for metrics and health.", default=Admin())
    functions: Mapping[str, FunctionConfig] = key(
        Named(Section(FunctionConfig), "a mapping of names to functions", NAME_PATTERN, NAME_EXPECTS),
        "What can be invoked, by name.",
    )
    mappings: Mapping[str, MappingConfig] = key(
        Named(Section(MappingConfig), "a mapping of names to mappings", NAME_PATTERN, NAME_EXPECTS),
        "What invokes it, by name.",
    )
    warnings: tuple[Diagnostic, ...] = dataclasses.field(default=(), compare=False)
