"""Shards found: by words, by vector, and what is alike."""
