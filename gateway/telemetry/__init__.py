"""Counters for /metrics."""
