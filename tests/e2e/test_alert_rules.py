"""The published alert rules, by Prometheus's own tool: that they are valid, when they fire, and when they do not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kafka_harness.runner_process import REPOSITORY
from runner.telemetry.metrics import METRICS

M = 'mapping="m",function="f"'
P0, P1 = (f'{M},topic="t",partition="{number}"' for number in (0, 1))
HEALTHY = {
    'stream_runner_build_info{version="1"}': "1x120",
    f'stream_runner_mapping_state{{{M},state="disabled"}}': "0x120",
    f'stream_runner_mapping_problem{{{M},reason="DATA_LOSS"}}': "0x120",
    f"stream_runner_problem_partitions{{{M}}}": "0x120",
    f"stream_runner_assigned_partitions{{{M}}}": "2x120",
    f"stream_runner_data_losses_total{{{M}}}": "7x120",
    f"stream_runner_lag_seconds{{{P0}}}": "0x120",
    f"stream_runner_lag_seconds{{{P1}}}": "12x120",
}
"""What a scrape a minute found for two hours, in promtool's words."""

STOPPED: dict[str, str | None] = {
    f'stream_runner_mapping_problem{{{M},reason="DATA_LOSS"}}': "0x60 1x60",
    f"stream_runner_problem_partitions{{{M}}}": "0x60 1x60",
    f"stream_runner_assigned_partitions{{{M}}}": "2x60 1x60",
    f"stream_runner_lag_seconds{{{P1}}}": "12x60 stale",
}


@pytest.fixture(scope="module")
def rules() -> str:
    """The rules as the documentation has them."""
    document = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    assert isinstance(block, str)
    return block


def alerts(rules: str) -> list[str]:
    return [rule["alert"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]


def run(promtool: str, directory: Path, *arguments: str) -> None:
    ran = subprocess.run([promtool, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_rules_are_valid_and_ask_for_metrics_that_there_are(rules: str, promtool: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules)
    run(promtool, tmp_path, "check", "rules", "rules.yaml")
    declared = {metric.name for metric in METRICS}
    assert set(re.findall(r"stream_runner_\w+", rules)) <= declared


@pytest.mark.parametrize(
    ("changes", "firing"),
    [
        ({}, set()),
        (STOPPED, {"StreamRunnerMappingProblem", "StreamRunnerPartitionsStopped", "StreamRunnerLagGone"}),
        ({f"stream_runner_lag_seconds{{{P0}}}": "0+60x120"}, {"StreamRunnerLagging"}),
        ({f"stream_runner_lag_seconds{{{P1}}}": None}, {"StreamRunnerLagNeverKnown"}),
        (dict.fromkeys(HEALTHY), {"StreamRunnerAbsent"}),
        ({f"stream_runner_data_losses_total{{{M}}}": "7x110 8x10"}, {"StreamRunnerDataLost"}),
        (
            {
                f'stream_runner_mapping_state{{{M},state="disabled"}}': "0x60 1x60",
                f"stream_runner_assigned_partitions{{{M}}}": "2x60 0x60",
                f"stream_runner_lag_seconds{{{P0}}}": "0x60 stale",
                f"stream_runner_lag_seconds{{{P1}}}": "12x60 stale",
            },
            set(),
        ),
    ],
    ids=["healthy", "stopped", "lagging", "never known", "absent", "lost", "disabled"],
)
def test_each_rule_fires_when_it_should_and_no_other(
    changes: dict[str, str | None], firing: set[str], rules: str, promtool: str, tmp_path: Path
) -> None:
    """At the end of two hours; what is given as None was never scraped."""
    series = [{"series": name, "values": values} for name, values in (HEALTHY | changes).items() if values is not None]
    expressions = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0 or vector(0)',
            "eval_time": "115m",
            "exp_samples": [{"labels": "{}", "value": int(alert in firing)}],
        }
        for alert in alerts(rules)
    ]
    cases: dict[str, Any] = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": expressions}],
    }
    (tmp_path / "rules.yaml").write_text(rules)
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    run(promtool, tmp_path, "test", "rules", "cases.yaml")
