"""Prompts in, scored groups out; weights into the engines. Knows nothing of losses, optimizers or stages."""
