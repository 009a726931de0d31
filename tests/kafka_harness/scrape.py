"""The runner's metrics as a scrape shows them, looked up by name and labels."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """The samples of one scrape, in its order; ``text`` is the scrape itself."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            Sample(sample.name, dict(sample.labels), float(sample.value))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def matching(self, name: str, **labels: str) -> list[Sample]:
        """The samples of that name that have at least these labels."""
        return [sample for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the matching samples. Raises LookupError when there is none."""
        found = self.matching(name, **labels)
        if not found:
            alike = sorted({sample.name for sample in self.samples if sample.name.startswith(name[:20])})
            raise LookupError(f"no sample {name}{labels}; there are {alike}")
        return sum(sample.value for sample in found)
