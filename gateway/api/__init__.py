"""HTTP, and nothing else: bytes to nouns, nouns to bytes."""
