"""Data sets: where rows come from and what they must hold."""
