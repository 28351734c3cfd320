"""Answers to the same prompt, forwarded together: what every loss on log-probabilities of answers starts from."""
