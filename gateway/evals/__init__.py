"""Data sets run through the gateway or its router, and what came of them in numbers."""
