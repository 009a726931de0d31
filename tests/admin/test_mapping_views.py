"""The JSON of the mappings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.admin.views import mappings_json
from runner.clients.secret import Secret
from runner.model import MappingState, Partition
from runner.telemetry.snapshot import MappingSnapshot, PartitionSnapshot


def mapping(name: str, **config: object) -> MappingSnapshot:
    return MappingSnapshot(name, "charge", MappingState.ENABLED, None, "OK", True, config=config)


def test_mappings_come_by_name() -> None:
    shown = json.loads(mappings_json([mapping("b"), mapping("a")]))
    assert [each["mapping"] for each in shown["mappings"]] == ["a", "b"]


def test_what_is_not_the_case_is_null() -> None:
    idle = PartitionSnapshot(Partition("orders", 0), True, 0, 0.0, 0, 0, 0, None, None, "", 7, None)
    shown = MappingSnapshot("a", "charge", MappingState.ENABLED, None, "OK", True, partitions=[idle])
    [view] = json.loads(mappings_json([shown]))["mappings"]
    assert view["last_error"] is None
    [partition] = view["partitions"]
    assert partition["paused_reason"] is partition["blocking_lane"] is partition["waiting_for"] is None


def test_a_secret_file_is_neither_read_nor_named() -> None:
    text = mappings_json([mapping("a", token=Secret(path=Path("/run/secrets/token")))])
    assert b"/run/secrets" not in text
    assert json.loads(text)["mappings"][0]["config"] == {"token": "***"}


def test_a_configuration_that_is_not_json_is_refused_by_type_not_by_value() -> None:
    with pytest.raises(TypeError, match="type bytes is not JSON"):
        mappings_json([mapping("a", token=b"hunter2")])
