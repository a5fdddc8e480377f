"""Distill small vision transformers from a frozen teacher with a curriculum over its blocks (LEAP)."""
