"""``python -m runner`` is ``stream-runner``."""

from runner.cli import main

main(prog_name="stream-runner")
