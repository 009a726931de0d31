"""What a configuration says when it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.clients.secret import Secret
from runner.config import Code, Config, ConfigInvalid, loads
from runner.config.connections import SaslConfig, SaslMechanism
from runner.config.functions import Executor, HttpFunctionConfig, HttpPayload
from runner.config.mappings import MappingConfig, OnDataLoss, StartingPosition, Tombstones
from runner.config.sources import KafkaSourceConfig
from runner.core.lanes import Ordering

SMALLEST = """\
functions:
  f: {http: {url: http://localhost/}}
mappings:
  m: {function: f, source: {kafka: {bootstrap_servers: "localhost:9092", topics: [orders]}}}
"""


def read(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return loads(text, name="config.yaml", environ=environ or {})


def mapping(
    more: str, environ: Mapping[str, str] | None = None, function: str = "http: {url: 'http://x/'}"
) -> MappingConfig:
    text = f"functions: {{f: {{{function}}}}}\nmappings: {{m: {{function: f, source: {{file: {{path: x}}}}, {more}}}}}"
    return read(text, environ).mappings["m"]


def http(more: str, environ: Mapping[str, str] | None = None) -> HttpFunctionConfig:
    text = SMALLEST.replace("url: http://localhost/", f"url: http://localhost/, {more}")
    function = read(text, environ).functions["f"].http
    assert function is not None
    return function


def kafka(more: str, environ: Mapping[str, str] | None = None) -> KafkaSourceConfig:
    source = read(SMALLEST.replace("topics:", f"{more}, topics:"), environ).mappings["m"].source.kafka
    assert source is not None
    return source


def test_the_defaults() -> None:
    config = read(SMALLEST)
    assert config.warnings == ()
    assert (config.limits.concurrency, config.limits.buffer_bytes) == (1000, 256_000_000)
    assert (config.admin.listen, config.admin.host, config.admin.port) == ("127.0.0.1:9464", "127.0.0.1", 9464)
    function = config.functions["f"].http
    assert function == HttpFunctionConfig(
        url="http://localhost/",
        timeout=30.0,
        connect_timeout=5.0,
        payload=HttpPayload.LAMBDA,
        headers={},
        bearer_token=None,
        maximum_response=1_000_000,
        tls=None,
    )
    m = config.mappings["m"]
    assert m.source.kafka == KafkaSourceConfig(
        bootstrap_servers=("localhost:9092",),
        topics=("orders",),
        consumer_group_id="m",
        session_timeout=45.0,
        maximum_partition_fetch=1_000_000,
    )
    assert (m.starting_position, m.on_data_loss) == (StartingPosition.TRIM_HORIZON, OnDataLoss.FAIL)
    assert (m.batch_size, m.maximum_batching_window, m.maximum_payload) == (100, 0.5, 6_000_000)
    assert (m.parallelization_factor, m.ordering, m.maximum_concurrency) == (1, Ordering.PARTITION, None)
    assert (m.maximum_retry_attempts, m.maximum_record_age, m.maximum_retry_after) == (-1, None, 300.0)
    assert (m.retry_backoff.initial, m.retry_backoff.maximum) == (0.2, 30.0)
    assert (m.buffer.records, m.buffer.bytes, m.maximum_ahead) == (10_000, 32_000_000, 10_000)
    assert (m.drain_timeout, m.commit_interval, m.commit_timeout) == (30.0, 1.0, 5.0)
    assert (m.enabled, m.bisect_batch_on_function_error, m.reports_batch_item_failures) == (True, False, False)
    assert (m.tombstones, m.filter_criteria.filters, m.on_failure) == (Tombstones.DELIVER, (), None)


def test_values_that_follow_from_others() -> None:
    assert mapping("parallelization_factor: 2").ordering is Ordering.KEY
    assert mapping("destination_config: {on_failure: {file: {path: d}}}").maximum_retry_attempts == 10
    assert mapping("drain_timeout: 1m").drain_timeout == 60.0
    assert mapping("batch_size: 1", function="python: {handler: a.b, timeout: 7s}").drain_timeout == 7.0
    assert http("timeout: 2s").connect_timeout == 2.0
    assert kafka("consumer_group_id: other").consumer_group_id == "other"


def test_the_spellings_of_aws() -> None:
    m = mapping(
        "starting_position: AT_TIMESTAMP, starting_position_timestamp: 1738310400.5, "
        "function_response_types: [ReportBatchItemFailures], maximum_record_age: -1, "
        """filter_criteria: {filters: [{pattern: '{"value": {"a": [1.0]}}'}]}"""
    )
    assert (m.starting_position, m.starting_position_timestamp) == (StartingPosition.AT_TIMESTAMP, 1738310400.5)
    assert m.reports_batch_item_failures
    assert m.maximum_record_age is None
    (filter_,) = m.filter_criteria.filters
    assert filter_.pattern.to_dict() == {"value": {"a": [1.0]}}
    sasl = "tls: {}, sasl: {mechanism: SASL_SCRAM_256_AUTH, username: u, password: '${P}'}"
    assert kafka(sasl, {"P": "p"}).sasl == SaslConfig(
        mechanism=SaslMechanism.SCRAM_SHA_256, username="u", password=Secret(literal="p")
    )


@pytest.mark.parametrize(
    ("handler", "normalised"),
    [("a:b", "a:b"), ("a.b", "a:b"), ("a.b.c", "a.b:c"), ("a.b:C.d", "a.b:C.d"), ("_x.y1:z_", "_x.y1:z_")],
)
def test_a_handler(handler: str, normalised: str) -> None:
    config = read(f"functions: {{f: {{python: {{handler: '{handler}', executor: process}}}}}}\nmappings: {{}}")
    python = config.functions["f"].python
    assert python is not None
    assert (python.handler, python.executor) == (normalised, Executor.PROCESS)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-01-31T08:00:00Z", 1738310400.0),
        ("2025-01-31t08:00:00.250z", 1738310400.25),
        ("2025-01-31 09:00:00+01:00", 1738310400.0),
        ("1738310400", 1738310400.0),
        ("0", 0.0),
        ('"${T}"', 1738310400.0),
    ],
)
def test_a_point_in_time(text: str, seconds: float) -> None:
    m = mapping(f"starting_position: at_timestamp, starting_position_timestamp: {text}", {"T": "2025-01-31T08:00:00Z"})
    assert m.starting_position_timestamp == seconds


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("0.0.0.0:80", "0.0.0.0", 80),
        ('"[::1]:9464"', "::1", 9464),
        ("localhost:0", "localhost", 0),
        ("off", None, None),
        ("null", None, None),
    ],
)
def test_where_to_listen(listen: str, host: str | None, port: int | None) -> None:
    admin = read(f"{SMALLEST}admin: {{listen: {listen}}}\n").admin
    assert (admin.host, admin.port) == (host, port)


@pytest.mark.parametrize("servers", ["'a:1, b:2'", "[a:1, b:2]", "['a:1,b:2']", "'${SERVERS}'", "['${A}', b:2]"])
def test_bootstrap_servers(servers: str) -> None:
    text = SMALLEST.replace('"localhost:9092"', servers)
    source = read(text, {"SERVERS": "a:1,b:2", "A": "a:1"}).mappings["m"].source.kafka
    assert source is not None
    assert source.bootstrap_servers == ("a:1", "b:2")


def test_expressions() -> None:
    environ = {"SIZE": "7", "EMPTY": "", "NAME": "a b", "AGE": "-1", "ON": "false"}
    assert mapping("batch_size: '${SIZE}'", environ).batch_size == 7
    assert mapping("batch_size: '${NONE:-8}'", environ).batch_size == 8
    assert mapping("batch_size: '${EMPTY:-9}'", environ).batch_size == 9
    assert mapping("batch_size: '1${SIZE}'", environ).batch_size == 17
    assert mapping("enabled: '${ON}'", environ).enabled is False
    assert mapping("maximum_record_age: '${AGE}'", environ).maximum_record_age is None
    assert mapping("maximum_batching_window: '${SIZE}s'", environ).maximum_batching_window == 7.0
    token = http("headers: {a: '$${NAME} $$ $x ${NAME}', b: '${NAME:-}x'}", environ).headers
    assert {name: secret.reveal() for name, secret in token.items()} == {"a": "${NAME} $ $x a b", "b": "a bx"}
    assert kafka("client_id: '${SIZE}'", environ).client_id == "7"


def test_what_an_expression_brings_is_not_expanded_again() -> None:
    assert http("headers: {a: '${A}'}", {"A": "${B} $$"}).headers["a"].reveal() == "${B} $$"


@pytest.mark.parametrize(
    "expression", ["${}", "${A", "${A:-${B}}", "${A-b}", "${A:?b}", "${1A}", "${env:A}", "${file:}", "${a b}"]
)
def test_an_expression_that_is_none(expression: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        kafka(f"client_id: 'x{expression}'", {"A": "a", "B": "b"})
    (error,) = raised.value.errors
    assert error.code == Code.INTERPOLATION_MALFORMED
    assert (error.line, error.column) == (4, SMALLEST.splitlines()[3].index("topics") + len("client_id: 'x") + 1)


def test_two_undefined_variables_are_two_errors_at_their_places() -> None:
    with pytest.raises(ConfigInvalid) as raised:
        kafka("client_id: '${ONE}-${TWO}'")
    first, second = raised.value.errors
    assert (first.code, second.code) == (Code.VARIABLE_UNDEFINED, Code.VARIABLE_UNDEFINED)
    assert second.column - first.column == len("${ONE}-")


def test_a_secret_stays_bound_to_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n", encoding="utf-8")
    function = http(f"bearer_token: '${{file:{file}}}', headers: {{A: 'Bearer ${{file:{file}}}'}}")
    assert function.bearer_token == Secret(path=file)
    file.write_text("second\n", encoding="utf-8")
    assert function.bearer_token.reveal() == "second"
    assert function.headers["A"].reveal() == "Bearer first"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, Code.INTERPOLATED_FILE_UNREADABLE),
        (b"\xff", Code.INTERPOLATED_FILE_UNREADABLE),
        (b"\n", Code.SECRET_EMPTY),
        (b"a\nb", Code.MALFORMED),
        (b"x" * ((1 << 20) + 1), Code.INTERPOLATED_FILE_UNREADABLE),
    ],
)
def test_a_secret_file_that_cannot_be_used(content: bytes | None, code: Code, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigInvalid) as raised:
        http(f"bearer_token: '${{file:{file}}}'")
    assert [error.code for error in raised.value.errors] == [code]


def test_a_variable_that_is_no_text() -> None:
    with pytest.raises(ConfigInvalid) as raised:
        kafka("client_id: '${A}'", {"A": "\udcff"})
    assert [error.code for error in raised.value.errors] == [Code.VARIABLE_NOT_TEXT]


def test_equal_files_are_equal_configurations() -> None:
    one, other = read(SMALLEST), read("# a comment\n" + SMALLEST.replace("topics: [orders]", "topics: [ 'orders', ]"))
    assert one == other
    assert hash(one.mappings["m"]) == hash(other.mappings["m"])
    assert read(SMALLEST.replace("orders", "order")) != one
    changed = mapping("filter_criteria: {filters: [{pattern: {value: {a: [1]}}}]}")
    assert changed != mapping("filter_criteria: {filters: [{pattern: {value: {a: [true]}}}]}")
    assert changed == mapping('filter_criteria: {filters: [{pattern: \'{ "value": {"a": [1]} }\'}]}')


def test_models_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(SMALLEST).mappings["m"].batch_size = 1  # type: ignore[misc]


def test_a_mapping_may_be_repeated_with_an_alias() -> None:
    text = """\
functions: {f: {http: {url: http://localhost/, tls: null}}}
mappings:
  m: {function: f, retry_backoff: &slowly {initial: 1s, maximum: 1m}, source: {file: {path: x}}}
  n: {function: f, retry_backoff: *slowly, source: {file: {path: x}}}
"""
    config = read(text.replace(", tls: null", ""))
    assert config.mappings["n"].retry_backoff.maximum == 60.0
    with pytest.raises(ConfigInvalid, match="must be a mapping, found nothing"):
        read(text)
