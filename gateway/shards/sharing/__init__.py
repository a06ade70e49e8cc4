"""Shards from one gateway to another: signed bundles, feeds and subscriptions."""
