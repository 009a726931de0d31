"""Real Redis and Valkey servers for tests: alone, as a cluster, under Sentinel; raw clients, and a proxy to break."""
