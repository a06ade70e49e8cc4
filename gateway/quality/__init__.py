"""How good drafts are: their features, what a draft that has them is worth, and the promise that holds for a policy."""
