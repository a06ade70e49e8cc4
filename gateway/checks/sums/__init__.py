"""Sums that stand in texts: found, and worked out again. Imported with the first answer that is checked so."""
