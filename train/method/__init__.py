"""LEAP itself: the curriculum, the frozen teacher, the student, and the cost of a step."""
