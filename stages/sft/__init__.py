"""Supervised fine-tuning, by TRL's SFTTrainer."""
