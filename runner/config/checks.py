"""Every check that looks at more than one key."""

from __future__ import annotations

from runner.config import (
    connection_checks,
    function_checks,
    mapping_checks,
    process_checks,
    redis_checks,
    redis_source_checks,
    source_checks,
)
from runner.config.judgement import functions, mappings
from runner.config.models import Config
from runner.config.reading import Reading


def check(config: Config, reading: Reading) -> None:
    """Report everything in ``config`` that contradicts something else, or is risky."""
    for function in functions(config, reading):
        function_checks.check(function)
    for mapping in mappings(config, reading):
        mapping_checks.check(mapping)
        source_checks.check(mapping)
        connection_checks.check(mapping)
        redis_checks.check(mapping)
        redis_source_checks.check(mapping)
    process_checks.check(config, reading)
