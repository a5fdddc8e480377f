"""What is measured about this checkout, rather than by it."""
