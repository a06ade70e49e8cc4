"""Responders made of responders. They never add up costs: leaves write spend, the trace sums it."""
