"""The decisions, as values and state machines: no I/O, no clock, no event loop, no logging."""
