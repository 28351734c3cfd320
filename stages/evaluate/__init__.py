"""Exams: held-out accuracy of earlier stages' models."""
