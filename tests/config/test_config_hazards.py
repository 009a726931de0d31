"""Values that are right alone and wrong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FUNCTIONS = """\
functions:
  plain: {http: {url: "http://localhost/"}}
  raw: {http: {url: "http://localhost/", payload: raw}}
  slow: {python: {handler: a.b, timeout: 31m}}
"""
USED = """\
  used-plain: {function: plain, source: {file: {path: a}}}
  used-raw: {function: raw, batch_size: 1, source: {file: {path: a}}}
  used-slow: {function: slow, source: {file: {path: a}}}
"""
SHORTHANDS = {
    "<file>": "source: {file: {path: x}}",
    "<kafka>": "source: {kafka: {bootstrap_servers: 'k:1', topics: [t]}}",
    "<cluster>": "source: {kafka: {bootstrap_servers: 'k:1', topics: [t]",
    "<pattern>": "filter_criteria: {filters: [{pattern: ",
    "<on failure>": "destination_config: {on_failure: ",
}


@pytest.mark.parametrize(
    "mapping",
    [
        "<file>",
        "function: «E301»unknown, <file>",
        "<file>, starting_position: latest",
        "<file>, starting_position: «E319|add»at_timestamp",
        "<file>, starting_position: AT_TIMESTAMP, starting_position_timestamp: 1738310400",
        "<file>, «E319|remove»starting_position_timestamp: 1738310400",
        "<file>, batch_size: 10, buffer: {records: 10}, maximum_ahead: 10",
        "<file>, buffer: {records: «E305|raise buffer.records»99}",
        "<file>, maximum_ahead: «E317»99",
        "<file>, maximum_payload: 32MB",
        "<file>, maximum_payload: «E306»33MB",
        "<file>, buffer: {bytes: «E306»5MB}",
        "<file>, buffer: {bytes: «E316»257MB}",
        "<file>, maximum_concurrency: 1000",
        "<file>, maximum_concurrency: «E314»1001",
        "<file>, ordering: «E318»partition, parallelization_factor: 2",
        "<file>, ordering: none, parallelization_factor: 2",
        "<file>, retry_backoff: {initial: «E308»31s}",
        "<file>, retry_backoff: {maximum: «E308»100ms}",
        "<file>, drain_timeout: 30s",
        "<file>, drain_timeout: «W402|come again»29s",
        "<kafka>, drain_timeout: 1785s",
        "<kafka>, drain_timeout: «E309|29m»1786s",
        "<file>, drain_timeout: 2h",
        "function: «E309|drain_timeout»slow, <kafka>",
        "function: slow, <kafka>, drain_timeout: «W402»1s",
        "<kafka>, commit_timeout: «E310»45s",
        "<file>, commit_timeout: 45s",
        "function: raw, <file>, batch_size: 1",
        "function: «E312|batch_size: 1»raw, <file>",
        "function: raw, <file>, batch_size: «E312»2",
        "function: raw, <file>, batch_size: 1, function_response_types: «E313»[ReportBatchItemFailures]",
        """<file>, <pattern>{value: {amount: {«W410|[{"numeric": [">", 0]}]»numeric: [">", 0]}}}}]}""",
        """<file>, <pattern>{value: {amount: {«W410|[{"prefix": "a"}, {"prefix": "b"}]»prefix: [a, b]}}}}]}""",
        "<file>, <pattern>{value: {a: {«W410»anything-but: {prefix: [b]}, c: {«W410»exists: [true]}}}}}]}",
        "<file>, <pattern>{value: {$or: [{a: [1]}, {b: {«W410»suffix: [c]}}]}}}]}",
        """<file>, <pattern>«W410»'{"value": {"amount": {"numeric": [">", 0]}}}'}]}""",
        """<file>, <pattern>{value: {amount: [{numeric: [">", 0]}]}, headers: {prefix: [x]}}}]}""",
        """<file>, <pattern>{value: {amount: {«E111»prefix: EUR}}}}]}""",
        "<file>, «W406|on_failure»maximum_retry_attempts: 3",
        "<file>, «W406|on_failure»maximum_record_age: 60s",
        "<file>, maximum_record_age: -1, maximum_retry_attempts: -1",
        "<file>, maximum_retry_attempts: «E307»-1, <on failure>{file: {path: d}}}",
        "<file>, maximum_retry_attempts: -1, maximum_record_age: 1h, <on failure>{file: {path: d}}}",
        "<file>, <on failure>{file: {path: x/dead.jsonl}}}",
        "<file>, <on failure>{file: {path: «E304»x/../x/12.jsonl}}}",
        "source: {file: {path: x, checkpoint_file: «E304»x/0.jsonl}}",
        "source: {file: {path: x, checkpoint_file: «E303|of its own»a/.stream-runner/used-plain.json}}",
        "<file>, <on failure>{«E324|add bootstrap»kafka: {topic: t}}}",
        "<kafka>, <on failure>{kafka: {topic: «E304»t}}}",
        "<kafka>, <on failure>{kafka: {topic: «E304»t, bootstrap_servers: 'a:1,K:1'}}}",
        "<kafka>, <on failure>{kafka: {topic: t, bootstrap_servers: 'other:1'}}}",
        "<kafka>, <on failure>{kafka: {topic: d, «E325»tls: {}}}}",
        "<cluster>, «E320»sasl: {mechanism: BASIC_AUTH, username: u, password: '${PASSWORD}'}}}",
        "<cluster>, sasl: {mechanism: PLAIN, username: u, password: '${PASSWORD}', «W404»allow_plaintext: true}}}",
        "<cluster>, tls: {«W403»insecure_skip_verify: true}}}",
        "<cluster>, tls: {}, sasl: {mechanism: SASL_SCRAM_512_AUTH, username: u, «W405»password: p}}}",
    ],
)
def test_a_mapping(judge: Callable[..., Any], mapping: str) -> None:
    for shorthand, text in SHORTHANDS.items():
        mapping = mapping.replace(shorthand, text)
    if "function: " not in mapping:
        mapping = f"function: plain, {mapping}"
    judgement = judge(f"{FUNCTIONS}mappings:\n{USED}  m: {{{mapping}}}\n", {"PASSWORD": "secret"})
    judgement.check()
    assert (judgement.config is None) == any(each.code.startswith("E") for each in judgement.expected)


@pytest.mark.parametrize(
    "function",
    [
        'http: {url: "https://x/", tls: {}}',
        'http: {url: "http://x/", «E321»tls: {}}',
        'http: {url: "http://x/", timeout: 2s}',
        'http: {url: "http://x/", timeout: 2s, connect_timeout: «E311»3s}',
        'http: {url: "https://x/", bearer_token: "${TOKEN}"}',
        'http: {url: "http://127.0.0.1:80/", bearer_token: "${TOKEN}"}',
        'http: {url: "http://x/", «W407»bearer_token: "${TOKEN}"}',
        'http: {url: "https://x/", bearer_token: «E323»"${TOKEN}", headers: {authorization: a}}',
        'http: {url: "https://x/", tls: {«E322»key_file: "${FILE}"}}',
        'http: {url: "https://x/", tls: {«E322»certificate_file: "${FILE}"}}',
        'http: {url: "https://x/", tls: {certificate_file: "${FILE}", key_file: "${FILE}"}}',
        'http: {url: "https://x/", tls: {ca_file: "${FILE}", «E322»key_password: "${TOKEN}"}}',
        'http: {url: "https://x/", tls: {ca_file: «E110»"${FILE}/no"}}',
        'http: {url: "https://x/", headers: {X-A: a, «E112|keep one»x-a: b}}',
        'http: {url: "https://x/", headers: {«E112»Stream-Runner-Mapping: a, «E112»traceparent: b, «E112»host: c}}',
        'http: {url: "https://x/", headers: {«E112»"X A": a, X-B: «E106»"a\\nb", X-C: «E113»""}}',
        'http: {url: «E106»"https://x/#top"}',
        'http: {url: «E106»"https://x:99999/"}',
        'http: {url: «E106»"https:///path"}',
        'http: {url: «E106»"https://x/a b"}',
        'http: {url: «E106»"https://[::1/"}',
        'http: {url: "https://[::1]:8443/"}',
        'http: {url: "https://x/"}, reserved_concurrency: «E314»1001',
        "python: {handler: «E106»a-b.c}",
        "python: {handler: a.b, payload: records, executor: process}",
        "python: {handler: a.b, payload: «E109»cloudevents}",
    ],
)
def test_a_function(judge: Callable[..., Any], function: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content", encoding="utf-8")
    text = f"functions:\n  f: {{{function}}}\nmappings: {{m: {{function: f, source: {{file: {{path: x}}}}}}}}\n"
    judge(text, {"TOKEN": "secret", "FILE": str(file)}).check()


@pytest.mark.parametrize(
    "text",
    [
        "<f>\nmappings: {<m>}",
        "functions: {«W401|remove»f: {python: {handler: a.b}}}\n«W408|add one»mappings: {}",
        "functions: {f: {python: {handler: a.b}}, «W401»g: {python: {handler: a.b}}}\nmappings: {<m>}",
        "limits: {concurrency: «E315»1}\n<f>\nmappings: {<m>, n: {function: f, source: {file: {path: x}}}}",
        "limits: {concurrency: 1}\n<f>\nmappings: {<m>, n: {function: f, enabled: false, source: {file: {path: x}}}}",
        "limits: {buffer_bytes: «E316»31MB}\n<f>\nmappings: {<m>, n: {function: f, source: {file: {path: y}}}}",
        "<f>\nmappings: {«E106»'m m': {function: f, source: {file: {path: x}}}}",
        """\
<f>
mappings:
  m: {function: f, source: {kafka: {bootstrap_servers: ['a:1', 'b:1'], topics: [x], consumer_group_id: n}}}
  n: {function: f, source: {«E302»kafka: {bootstrap_servers: 'B:1', topics: [y]}}}
  o: {function: f, source: {kafka: {bootstrap_servers: 'c:1', topics: [y], consumer_group_id: n}}}
""",
    ],
)
def test_a_process(judge: Callable[..., Any], text: str) -> None:
    text = text.replace("<f>", "functions: {f: {python: {handler: a.b}}}")
    judge(text.replace("<m>", "m: {function: f, source: {file: {path: x}}}")).check()
