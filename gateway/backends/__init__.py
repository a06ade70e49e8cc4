"""Leaves: each runs one model and speaks one upstream dialect. Only they write spend."""
