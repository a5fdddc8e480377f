"""Pictures of trainings: one run, several side by side, the comparisons of `train.research`."""
