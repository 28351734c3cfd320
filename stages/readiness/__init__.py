"""How ready a policy is to be trained by reinforcement on some prompts."""
