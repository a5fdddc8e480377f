"""LEAP itself: the curriculum, the frozen teacher, the student that follows it, and what a step costs."""
