"""What a good answer is: text in, a number out. Knows nothing of policies, rollouts or Ray."""
