"""What the tests of the engine share: one mapping in a world of memory and virtual time."""
