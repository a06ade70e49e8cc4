"""Shards are data: what is taken out of them, and what waits for a person."""
