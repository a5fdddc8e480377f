"""LEAP Zoo: distilled vision transformers for the edge."""
