"""Turn a run folder into verified, quantised files that travel."""
