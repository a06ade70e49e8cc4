"""Documents, conversations and skills, read into shards."""
