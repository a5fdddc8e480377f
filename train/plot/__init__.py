"""Pictures of trainings: one run, several side by side, the studies of `train.research`."""
