"""Arguments, exit codes."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path

import anyio
import click

from runner import config as configuration
from runner.admin.server import AdminUnavailable
from runner.config import Config, ConfigInvalid
from runner.config.units import parse_duration
from runner.functions import left_behind
from runner.model import Settlement
from runner.progress import Progress
from runner.service import Service, Summary, installed_version
from runner.telemetry import logs
from runner.telemetry.logs import Logs

EXIT_INVALID = 1
EXIT_USAGE = 2
EXIT_CANNOT_START = 3
EXIT_NOT_DONE = 4

_LEAVE_SECONDS = 2.0

_EPILOG = """\b
Exit codes:
  0    done: drained after a signal, caught up, or the configuration is valid
  1    the configuration is not valid; nothing was started
  2    the command line is wrong
  3    the process cannot start, e.g. admin.listen is in use
  4    --until-caught-up ended before everything was settled
  130, 143   a second SIGINT or SIGTERM ended the process at once
"""


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        seconds = parse_duration(str(value))
        if seconds is None:
            self.fail(f"{value!r} is not a duration such as 500ms, 30s or 5m", param, ctx)
        return seconds


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(installed_version(), prog_name="stream-runner")
def main() -> None:
    """Reads streams that you host yourself and invokes functions with batches of their records."""


@main.command(epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--until-caught-up", is_flag=True, help="Settle everything up to the end as it is now, then exit.")
@click.option(
    "--deadline", type=_Duration(), help="With --until-caught-up: end after this long (30s, 5m), done or not."
)
@click.option(
    "--app-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    show_default="the working directory",
    help="Where the modules of Python functions are found.",
)
@click.option(
    "--log-style",
    type=click.Choice(["json", "console"]),
    default=None,
    help="Default: console on a terminal, else json.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def run(
    file: Path,
    until_caught_up: bool,
    deadline: float | None,
    app_dir: Path,
    log_style: str | None,
    log_level: str,
) -> None:
    """Run the mappings of FILE. SIGTERM and SIGINT drain, a second one exits at once; SIGHUP reloads FILE."""
    if deadline is not None and not until_caught_up:
        raise click.UsageError("--deadline goes with --until-caught-up")
    config = _load(file)
    on_terminal = sys.stderr.isatty()
    style = log_style or ("console" if on_terminal else "json")
    configured = logs.configure(style, log_level)  # type: ignore[arg-type]  # click has checked the choices
    progress = Progress(sys.stderr) if until_caught_up and on_terminal else None
    app_dir = app_dir.resolve()

    async def serve() -> int:
        service = Service(
            config,
            path=file,
            environ=os.environ,
            app_dir=app_dir,
            logs=configured,
            until_caught_up=until_caught_up,
            deadline=deadline,
            progress=progress,
        )
        summary = await service.run()
        code = 0
        if until_caught_up:
            _print_summary(summary)
            code = 0 if summary.is_complete else EXIT_NOT_DONE
        _leave_in_time(code, configured)
        return code

    _tune_garbage_collection()
    try:
        code = anyio.run(serve, backend_options={"use_uvloop": True})
    except AdminUnavailable as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CANNOT_START)
    finally:
        configured.close()
    sys.exit(code)


@main.command(epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
def validate(file: Path) -> None:
    """Check FILE and report everything that is wrong with it at once; connect to nothing."""
    config = _load(file)
    click.echo(f"{file}: valid; {len(config.functions)} functions, {len(config.mappings)} mappings")


@main.command(epilog=_EPILOG)
def schema() -> None:
    """Print the JSON Schema that editors complete and check configurations with."""
    click.echo(json.dumps(configuration.json_schema(), indent=2))


def _tune_garbage_collection() -> None:
    """Records make no reference cycles, but the collector's default rhythm would walk them, and all modules, for a
    third of the time that a record costs: what is loaded is set aside, and the rest is looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _load(file: Path) -> Config:
    try:
        config = configuration.load(file, os.environ)
    except ConfigInvalid as invalid:
        click.echo(invalid.render(colour=_colour()), err=True)
        sys.exit(EXIT_INVALID)
    if config.warnings:
        click.echo(configuration.render(config.warnings, colour=_colour()), err=True)
    return config


def _colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _print_summary(summary: Summary) -> None:
    settled = summary.settled
    total = sum(settled.values())
    words = [
        f"{settled[Settlement.DELIVERED]:,} delivered",
        f"{summary.retried:,} retried",
        f"{settled[Settlement.DEAD_LETTERED]:,} dead-lettered",
    ]
    others = (Settlement.FILTERED, Settlement.SKIPPED, Settlement.DROPPED)
    words += [f"{settled[how]:,} {how.value}" for how in others if settled[how]]
    rate = total / summary.seconds if summary.seconds else 0.0
    click.echo(f"{', '.join(words)} in {summary.seconds:.1f} s ({rate:,.0f} records/s)")
    if not summary.is_complete:
        click.echo("not done:" if summary.unsettled else "not done")
    for line in summary.unsettled:
        click.echo(f"  {line}")


def _leave_in_time(code: int, configured: Logs) -> None:
    """All is drained and told: what handlers left running must not keep the process, neither the loop nor the
    interpreter, which both wait for threads and tasks as they close. Returns when nothing of it is known."""

    def leave() -> None:
        try:
            configured.close()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    if left_behind.count():
        leave()
    timer = threading.Timer(_LEAVE_SECONDS, leave)
    timer.daemon = True
    timer.start()
