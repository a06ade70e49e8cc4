"""The learning loop on one example, from nothing to an adapter that answers."""
