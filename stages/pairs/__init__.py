"""Preference pairs made from scored groups of the policy's own answers."""
