"""The JSON Schema that editors use, and the annotated examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import Config, json_schema, load, loads
from runner.config.sections import Section, keys_of
from runner.config.sources import RedisStreamsSourceConfig

EXAMPLE = Path(__file__).parents[2] / "config" / "kafka-to-http.yaml"
EXAMPLES = {
    EXAMPLE: {"orders-to-charge-card", "refunds-to-audit", "events-to-audit"},
    EXAMPLE.with_name("redis-to-http.yaml"): {"orders-to-charge-card"},
}
"""With the names of their mappings."""
SCHEMA: dict[str, Any] = json_schema()
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def violations(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """What of ``schema`` (the part of draft 7 that ours uses) ``value`` does not keep."""
    for word, argument in schema.items():
        if not KEEPS[word](value, argument, schema):
            yield f"{value!r} breaks {word}: {argument!r}"


def valid(value: Any, schema: Mapping[str, Any]) -> bool:
    return next(violations(value, schema), None) is None


def _has_type(value: Any, name: str, _: object) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _has_no_other_keys(value: Any, inner: Any, schema: Mapping[str, Any]) -> bool:
    others = [each for name, each in value.items() if name not in schema.get("properties", {})]
    return not others if inner is False else all(valid(each, inner) for each in others)


KEEPS: dict[str, Any] = {
    "type": _has_type,
    "$ref": lambda value, ref, _: valid(value, SCHEMA["definitions"][ref.removeprefix("#/definitions/")]),
    "allOf": lambda value, schemas, _: all(valid(value, each) for each in schemas),
    "anyOf": lambda value, schemas, _: any(valid(value, each) for each in schemas),
    "oneOf": lambda value, schemas, _: sum(valid(value, each) for each in schemas) == 1,
    "enum": lambda value, values, _: value in values,
    "const": lambda value, constant, _: value == constant,
    "pattern": lambda value, pattern, _: not isinstance(value, str) or re.search(pattern, value) is not None,
    "minLength": lambda value, length, _: not isinstance(value, str) or len(value) >= length,
    "maxLength": lambda value, length, _: not isinstance(value, str) or len(value) <= length,
    "minimum": lambda value, bound, _: not isinstance(value, (int, float)) or value >= bound,
    "maximum": lambda value, bound, _: not isinstance(value, (int, float)) or value <= bound,
    "minItems": lambda value, length, _: not isinstance(value, list) or len(value) >= length,
    "maxItems": lambda value, length, _: not isinstance(value, list) or len(value) <= length,
    "items": lambda value, inner, _: not isinstance(value, list) or all(valid(each, inner) for each in value),
    "required": lambda value, names, _: not isinstance(value, dict) or all(name in value for name in names),
    "properties": lambda value, inner, _: (
        not isinstance(value, dict) or all(valid(each, inner[name]) for name, each in value.items() if name in inner)
    ),
    "propertyNames": lambda value, inner, _: not isinstance(value, dict) or all(valid(name, inner) for name in value),
    "additionalProperties": lambda value, inner, schema: (
        not isinstance(value, dict) or _has_no_other_keys(value, inner, schema)
    ),
} | dict.fromkeys(["$schema", "title", "description", "default", "definitions"], lambda *_: True)


def example(path: Path = EXAMPLE) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_is_valid_as_it_is(path: Path) -> None:
    config = load(path, {})
    assert config.warnings == ()
    assert set(config.mappings) == EXAMPLES[path]


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_is_valid_with_every_line_switched_on(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content", encoding="utf-8")
    text = re.sub(r"/(?:etc/stream-runner|run/secrets)/[a-z.-]+", str(file), switched_on(path))
    assert loads(text, name="example", environ={"KEY_PASSWORD": "secret"}).warnings == ()


def switched_on(path: Path) -> str:
    """The text of an example with every line that it holds back, and what they need."""
    text = re.sub(r"#\| ?", "", path.read_text(encoding="utf-8").split("\n\n", 1)[1])
    text = text.replace("http://localhost:8080/", "https://localhost:8080/")
    text = text.replace("-redis://", "-rediss://")
    return text.replace("starting_position: trim_horizon", "starting_position: at_timestamp")


def test_every_key_is_in_the_examples() -> None:
    text = "\n".join([switched_on(path) for path in EXAMPLES])
    written = set(re.findall(r"^ *(?:- )?([a-z_]+):|[{,] *([a-z_]+):", text, re.MULTILINE))
    missing = {name for name in _keys(Section(Config)) if not any(name in pair for pair in written)}
    assert missing == set()


def test_every_key_of_a_redis_source_is_in_its_example() -> None:
    source = yaml.safe_load(switched_on(EXAMPLE.with_name("redis-to-http.yaml")))["mappings"]["orders-to-charge-card"]
    assert set(source["source"]["redis_streams"]) == set(keys_of(RedisStreamsSourceConfig))


def _keys(section: Section[Any]) -> Iterator[str]:
    definitions: dict[str, dict[str, Any]] = {}
    section.schema(definitions)
    for definition in definitions.values():
        yield from definition.get("properties", {})


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_schema_accepts_an_example(path: Path) -> None:
    assert list(violations(example(path), SCHEMA)) == []


def test_the_schema_is_draft_7_in_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_every_key_is_described_and_every_section_closed() -> None:
    for name, definition in SCHEMA["definitions"].items():
        assert definition["description"], name
        if definition["type"] == "object":
            assert definition["additionalProperties"] is False
            for key, schema in definition["properties"].items():
                assert schema["description"], (name, key)
                assert "$ref" not in schema, "draft 7 ignores what stands beside it"


def test_every_default_is_valid() -> None:
    for name, definition in SCHEMA["definitions"].items():
        for key, schema in definition.get("properties", {}).items():
            if "default" in schema:
                assert list(violations(schema["default"], schema)) == [], (name, key)


@pytest.mark.parametrize(
    ("path", "value", "accepted"),
    [
        ("mappings.orders-to-charge-card.batchsize", 1, False),
        ("mappings.orders-to-charge-card.batch_size", 10_001, False),
        ("mappings.orders-to-charge-card.batch_size", "ten", False),
        ("mappings.orders-to-charge-card.batch_size", "${SIZE}", True),
        ("mappings.orders-to-charge-card.enabled", "${ON:-true}", True),
        ("mappings.orders-to-charge-card.enabled", "on", False),
        ("mappings.orders-to-charge-card.maximum_batching_window", 5, False),
        ("mappings.orders-to-charge-card.maximum_batching_window", 0, True),
        ("mappings.orders-to-charge-card.maximum_batching_window", "5 s", False),
        ("mappings.orders-to-charge-card.maximum_record_age", -1, True),
        ("mappings.orders-to-charge-card.maximum_payload", "6MB", True),
        ("mappings.orders-to-charge-card.maximum_payload", "6 MB", False),
        ("mappings.orders-to-charge-card.starting_position", "TRIM_HORIZON", True),
        ("mappings.orders-to-charge-card.starting_position", "earliest", False),
        ("mappings.orders-to-charge-card.function_response_types", ["ReportBatchItemFailures"], True),
        ("mappings.orders-to-charge-card.starting_position_timestamp", "2025-01-31T08:00:00Z", True),
        ("mappings.orders-to-charge-card.source", {}, False),
        ("mappings.orders-to-charge-card.source.file", {"path": "x"}, False),
        ("mappings.a b", {}, False),
        ("functions.audit.http", {"url": "http://x/"}, False),
        ("functions.charge-card.http.url", "ftp://x", False),
        ("functions.charge-card.http.headers.X A", "a", False),
        ("admin.listen", None, True),
        ("admin.listen", "off", True),
        ("admin.listen", "[::1]:80", True),
        ("admin.listen", "nowhere", False),
    ],
)
def test_the_schema_tells_right_from_wrong(path: str, value: object, accepted: bool) -> None:
    config = example()
    *sections, last = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[last] = value
    assert valid(config, SCHEMA) is accepted


def test_every_key_of_a_section_is_a_field() -> None:
    assert set(keys_of(Config)) == {"limits", "admin", "functions", "mappings"}
