"""What a frozen student's features are worth: `python -m train.evaluate RUN_OR_MODEL ...`."""
