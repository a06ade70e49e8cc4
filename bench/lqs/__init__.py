"""The share of a replay workload that the small local model answers at a certified quality: `make lqs`."""
