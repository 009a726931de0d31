"""The HTTP side for operators, probes and Prometheus."""
