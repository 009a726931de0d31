"""The world around Stream Runner for end-to-end tests: a real Kafka, a real HTTP function, the runner as a process."""
