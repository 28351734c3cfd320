"""Tasks small enough to learn from nothing on a laptop, a folder each: data, base model, rewards."""
