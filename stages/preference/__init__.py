"""Preference optimisation, by TRL's DPOTrainer."""
