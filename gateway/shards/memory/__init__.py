"""What users want remembered: kept, found in conversations, forgotten."""
