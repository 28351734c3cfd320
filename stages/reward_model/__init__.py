"""A model that tells the better of two answers, by TRL's RewardTrainer."""
