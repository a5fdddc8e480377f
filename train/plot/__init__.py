"""Plots of a run, of several runs side by side, and of a study."""
