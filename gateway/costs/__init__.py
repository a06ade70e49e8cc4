"""What requests cost: hours of engines shared between them, energy, and what went where."""
