"""What tests of mappings are made of: a source, a destination and a function in memory, and the suites for adapters."""

from __future__ import annotations

from runner.testing.destination import MemoryDestination
from runner.testing.destination_suite import DestinationConformance, DestinationHarness, StoredLetter
from runner.testing.function import Call, ScriptedFunction
from runner.testing.listener import RecordingListener
from runner.testing.source import MemorySource
from runner.testing.source_suite import SourceConformance, SourceHarness
from runner.testing.stream import MemoryStream

__all__ = [
    "Call",
    "DestinationConformance",
    "DestinationHarness",
    "MemoryDestination",
    "MemorySource",
    "MemoryStream",
    "RecordingListener",
    "ScriptedFunction",
    "SourceConformance",
    "SourceHarness",
    "StoredLetter",
]
