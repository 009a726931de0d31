"""Dead letters for tests of the destinations: made, awaited, and read back by the documented form alone."""
