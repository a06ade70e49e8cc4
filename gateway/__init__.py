"""Onion Gateway: one OpenAI-compatible endpoint in front of small local models and large remote ones."""

__version__ = "0.1.0"
