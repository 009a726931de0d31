"""The name of what a machine lacks, so that a test can say it instead of failing obscurely."""

from __future__ import annotations

import shutil


class ComponentMissing(Exception):
    """A program that the harness needs is not there. ``component`` names it, ``advice`` says how to get it."""

    def __init__(self, component: str, advice: str) -> None:
        super().__init__(f"{component} is missing: {advice}")
        self.component = component
        self.advice = advice


def find_program(name: str, advice: str) -> str:
    """The absolute path of a program on the search path. Raises ComponentMissing."""
    found = shutil.which(name)
    if found is None:
        raise ComponentMissing(name, advice)
    return found
