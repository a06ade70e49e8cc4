"""What each model can do: the learned router, clusters of prompts, and what became of them at each model."""
