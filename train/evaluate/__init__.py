"""Evaluation of a frozen student's features: `python -m train.evaluate RUN_OR_MODEL ...`."""
