"""From a YAML file to frozen models, with every mistake at its place."""

from __future__ import annotations

from runner.config.codes import Code
from runner.config.diagnostics import ConfigInvalid, Diagnostic, render
from runner.config.loading import json_schema, load, loads
from runner.config.models import Config

__all__ = ["Code", "Config", "ConfigInvalid", "Diagnostic", "json_schema", "load", "loads", "render"]
