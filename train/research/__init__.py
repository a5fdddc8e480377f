"""Comparisons of recipes: one runner over a table of changes and seeds, one format of results."""
