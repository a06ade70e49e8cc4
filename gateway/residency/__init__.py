"""`gateway models`: what is loaded and why, now and over time."""
