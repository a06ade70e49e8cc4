"""Half an hour of everything at once against one server, and what it has kept, lost and left behind at the end.

`site` starts it, `clients` ask, `trouble` breaks things meanwhile, `watch` takes samples, `crash` ends it the hard way,
`verdict` judges, `picture` draws, `run` tells the story.
"""
