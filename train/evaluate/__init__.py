"""What a frozen student's features are worth.

`python -m train.evaluate RUN_OR_MODEL ...` measures a run folder or an exported file; from Python:

    plan = Plan(sets=[PhotoSets.open("Caltech-101", "caltech/train", "caltech/test")])
    metrics = evaluate(of_run(load_run(folder)), plan)
"""

from train.evaluate.features import Subject, extract, normalise, of_artifact, of_run, of_teacher, pooled
from train.evaluate.knn import knn
from train.evaluate.plan import PhotoSets, Plan, evaluate
from train.evaluate.probe import Probe, linear_probe
from train.evaluate.scores import Score, accuracy, share

__all__ = [
    "PhotoSets",
    "Plan",
    "Probe",
    "Score",
    "Subject",
    "accuracy",
    "evaluate",
    "extract",
    "knn",
    "linear_probe",
    "normalise",
    "of_artifact",
    "of_run",
    "of_teacher",
    "pooled",
    "share",
]
