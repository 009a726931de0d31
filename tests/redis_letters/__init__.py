"""Dead letters for tests of the Redis destination: made, stored, and read back by the documented form alone."""
