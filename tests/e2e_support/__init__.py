"""What several end-to-end tests share: configurations, views of a running process, load."""
