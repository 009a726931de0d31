"""Measures Stream Runner against the bare Kafka client, as ratios in one run."""
