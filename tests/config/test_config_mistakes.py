"""Many mistakes in one file are told at once, each at its place, with its code and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.config import Code, ConfigInvalid, loads

MISTAKES = """\
limits: {concurrency: «E315|raise limits.concurrency»1, buffer_bytes: «E316|lower»20MB}
admin: {listen: «E106|0.0.0.0»":9464"}
«E103|did you mean 'functions'?»funtions: {}
functions:
  charge-card:
    http:
      url: «E106|use bearer_token»"http://user:hunter2@localhost/"
      timeout: «E102|500ms, 30s»30
      payload: «E109|use lambda or raw»cloudevents
      headers:
        «E112|remove it»Content-Length: "1"
        X-Team: "«E201|did you mean 'TEAM'?»${TAEM}"
      maximum_response: «E106|KiB 1024»1 MB
    reserved_concurrency: «E102|leading zeros»010
  audit:
    python: {handler: «E106|package.module:attribute»handle}
  secured:
    http:
      url: http://localhost:8080/
      connect_timeout: «E311|raise the timeout»60s
      «E321|https://»tls: {«E322|add key_file»certificate_file: «E110|check the path»/there/is/no/such.pem}
  twice:
    http: {url: "http://localhost/"}
    «E107|keep one»python: {handler: a.b}
  «E107|add 'http' or 'python'»nothing: {}
mappings:
  orders:
    function: «E301|did you mean 'charge-card'?»charge-crad
    source:
      kafka:
        bootstrap_servers: [«E106|localhost:9092»localhost]
        topics: [orders, «E106|letters»"or ders", «E108|keep one»orders]
        «E320|allow_plaintext»sasl:
          mechanism: «E105|did you mean 'SCRAM-SHA-256'?»SCRAM-SHA256
          username: u
          «E103|did you mean 'password'?»pasword: hunter3
        session_timeout: «E104|bounds»5s
    starting_position: at_timestamp
    starting_position_timestamp: «E106|add the offset»2025-01-31T08:00:00
    «E103|did you mean 'batch_size'?»batchsize: 10
    «E103|did you mean 'maximum_record_age'?»MaximumRecordAgeInSeconds: 60
    maximum_batching_window: «E104|bounds»301s
    enabled: «E102|write true»yes
    parallelization_factor: 4
    ordering: «E318|ordering: key»partition
    maximum_record_age: «E104|bounds»30s
    retry_backoff: {initial: «E308|lower initial»60s}
    buffer: {records: 5, bytes: «E306|raise buffer.bytes»5MB}
    batch_size: «E305|raise buffer.records»6
    maximum_ahead: «E317|lower batch_size»5
    function_response_types: [«E105|did you mean 'report_batch_item_failures'?»ReportBatchItemFailure]
    filter_criteria:
      filters:
        - pattern: {«E111|event filtering»vaue: [1]}
        - pattern: «E111|YAML mapping»'{"value": '
        - pattern: {value: {amount: [«E111|event filtering»{nmeric: [">", 0]}]}}
    commit_interval: «E104|bounds»0
    «E008|first one is on line 40»batchsize: 11
  «E101|add 'function'»lost:
    source: {kafka: {bootstrap_servers: "a:1", topics: [t], consumer_group_id: shared}}
    drain_timeout: «E309|29m»40m
    maximum_concurrency: «E314|raise limits.concurrency»2
  thief:
    function: secured
    source: {kafka: {bootstrap_servers: "b:1,A:1", topics: [t], consumer_group_id: «E302|of its own»shared}}
    maximum_retry_attempts: «E307|limit»-1
    destination_config: {on_failure: {kafka: {topic: «E304|another topic»t}}}
    «E103|the keys here are»tag: «E009|its key says»!!str x
"""


def test_every_mistake_is_told_at_once(judge: Callable[..., Any]) -> None:
    judgement = judge(MISTAKES, {"TEAM": "payments"})
    assert len(judgement.expected) >= 25
    judgement.check()


def test_no_secret_of_the_file_is_shown(judge: Callable[..., Any]) -> None:
    judgement = judge(MISTAKES, {"TEAM": "payments"})
    assert "hunter" in judgement.text
    assert "hunter" not in "".join([each.render() for each in judgement.found])


VALID = """\
functions:
  f: {{python: {{handler: a.b}}}}
mappings:
  m:
    function: f
    source: {{file: {{path: x}}}}
    {0}
"""


@pytest.mark.parametrize(
    "line",
    [
        "enabled: «E102|write false»off",
        "enabled: «E102|write true»True",
        "enabled: «E102»1",
        'enabled: «E102|write true»"true"',
        "batch_size: «E102|without quotes»'100'",
        "batch_size: «E102»1.5",
        "batch_size: «E102»true",
        "batch_size: «E102»0x10",
        "batch_size: «E102»1_000",
        "batch_size: «E102»1:30",
        "batch_size: «E102»[1]",
        "batch_size: «E102»{}",
        "«E102»batch_size:",
        "batch_size: «E104»0",
        "batch_size: «E104»10001",
        "batch_size: «E104|quotes»99999999999999999999999999999999999999999",
        "parallelization_factor: «E104»1001",
        "maximum_batching_window: «E102|unit»5",
        "maximum_batching_window: «E106|without a space»5 s",
        "maximum_batching_window: «E106»-5s",
        "maximum_batching_window: «E106»5S",
        "maximum_retry_after: «E106»1e3s",
        "maximum_record_age: «E104»0",
        "maximum_record_age: «E104»8d",
        "maximum_record_age: «E102»-2",
        "maximum_payload: «E102|6MB»6000000",
        "maximum_payload: «E106»6mb",
        "maximum_payload: «E106»1000.0001KB",
        "starting_position: «E105|did you mean»trim-horizon",
        "starting_position: «E105»Trim_Horizon",
        "on_data_loss: «E102»true",
        "tombstones: «E105|write deliver or skip»drop",
        "function_response_types: «E102|brackets»report_batch_item_failures",
        "function_response_types: «E104»[report_batch_item_failures, ReportBatchItemFailures]",
        "«E102|its defaults»buffer:",
        "buffer: «E102»5",
        "filter_criteria: {filters: [{pattern: «E102»5}]}",
        "filter_criteria: {filters: [{pattern: «E111»'[1]'}]}",
        """filter_criteria: {filters: [{pattern: «E111»'{"value": [1], "value": [2]}'}]}""",
        """filter_criteria: {filters: [{pattern: «E111»'{"value": [NaN]}'}]}""",
        "filter_criteria: {filters: [{pattern: «E104»'" + "x" * 9000 + "'}]}",
        "filter_criteria: {filters: [{pattern: «E111»'" + "[" * 4000 + "'}]}",
        "filter_criteria: {filters: [{pattern: «E104»{value: {a: [" + "x" * 4096 + "]}}}]}",
        "filter_criteria: {filters: [{«E103|did you mean 'pattern'?»patern: {}}]}",
        "«E010|anchor»<<: {batch_size: 1}",
        "? «E011|name»[a]\n    : 1",
        "batch_size: «E009|its key says»!!int 5",
        "tombstones: «E009|its key says»!skip skip",
        "destination_config: «E102»[]",
        "destination_config: {«E107|add 'kafka', 'redis_streams' or 'file'»on_failure: {}}",
    ],
)
def test_a_single_mistake(judge: Callable[..., Any], line: str) -> None:
    judge(VALID.format(line)).check()


def test_the_same_mistake_behind_aliases_is_told_once(judge: Callable[..., Any]) -> None:
    judge(
        """\
functions: {f: {python: &p {«E103»handlr: x, handler: «E106»y}}, g: {python: *p}}
mappings:
  m: {function: f, source: &s {file: {path: x, poll_interval: «E104»0}}}
  n: {function: g, source: *s}
"""
    ).check()


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("", Code.EMPTY, (0, 0)),
        ("# nothing\n", Code.EMPTY, (0, 0)),
        ("---\n...\n", Code.EMPTY, (0, 0)),
        ("[1, 2]", Code.WRONG_TYPE, (1, 1)),
        ("mappings: {}\n", Code.MISSING_KEY, (1, 1)),
        ("mappings: {}\nfunctions: {}\n---\nmappings: {}\n", Code.SEVERAL_DOCUMENTS, (3, 1)),
        ("a: b: c", Code.YAML_SYNTAX, (1, 5)),
        ("a:\n\tb: 1\n", Code.YAML_SYNTAX, (2, 1)),
        ("mappings: {}\nfunctions: [\n", Code.YAML_SYNTAX, (3, 1)),
        ("mappings: {}\nfunctions: \x07\n", Code.CHARACTER_NOT_ALLOWED, (2, 12)),
        ("a: \ud800", Code.CHARACTER_NOT_ALLOWED, (1, 4)),
        ("a: *b", Code.ALIAS_WITHOUT_ANCHOR, (1, 4)),
        ("a: &a [*a]", Code.ALIAS_WITHOUT_ANCHOR, (1, 8)),
    ],
)
def test_a_file_that_is_no_configuration(text: str, code: Code, place: tuple[int, int]) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        loads(text, name="config.yaml", environ={})
    (error,) = raised.value.errors
    assert (error.code, (error.line, error.column)) == (code, place)
    assert error.hint
