"""What a model sees on a photo, as bars; two files of the model side by side where both are there."""

from __future__ import annotations

from html import escape

from leap_zoo import Prediction
from serve.demo.markup import chips, empty, note, percent
from serve.engine import Classified

NO_PHOTO = empty("No photo yet", "Drop one, choose a file, or paste from the clipboard. The classes appear here as bars.")


def refusal(detail: str) -> str:
    """What is wrong with the photo, in the place of the bars.

    In a passing notice it would leave the last photo's classes beside this one.
    """
    return empty("This photo cannot be used", detail, alert=True)


def bars(answer: Classified, precision: str) -> str:
    """The predictions as bars, best first, and how long they took."""
    facts = [f"{answer.milliseconds:.1f} ms", precision, f"head {answer.head}"]
    rows = "".join(_row(prediction, [(_track(prediction.score), "")]) for prediction in answer.predictions)
    return _result(answer, rows, chips(facts))


def compared(answer: Classified, precision: str, other: Classified, other_precision: str) -> str:
    """The same photo by two files: a bar each for every class that one of them ranks high."""
    scores = {prediction.label: prediction.score for prediction in other.predictions}
    rows = "".join(
        _row(one, [(_track(one.score), precision), (_track(scores.get(one.label), "leap-second"), other_precision)])
        for one in answer.predictions
    )
    facts = [
        f"{precision} {answer.milliseconds:.1f} ms",
        f"{other_precision} {other.milliseconds:.1f} ms",
        f"head {answer.head}",
    ]
    agree = answer.predictions[0].label == other.predictions[0].label
    words = "Both files name the same class." if agree else f"{other_precision} says: {other.predictions[0].label}."
    return _result(answer, rows, chips(facts) + note(words))


def _result(answer: Classified, rows: str, below: str) -> str:
    return (
        f'<section class="leap-result" role="status"><p class="leap-best">{escape(answer.predictions[0].label)}</p>'
        f'<ol class="leap-bars" aria-label="Classes, best first">{rows}</ol>{below}</section>'
    )


def _row(prediction: Prediction, tracks: list[tuple[str, str]]) -> str:
    lines = "".join(
        f'<span class="leap-line">{f"<small>{escape(name)}</small>" if name else ""}{track}</span>'
        for track, name in tracks
    )
    return (
        f'<li><span class="leap-label">{escape(prediction.label)}</span>'
        f'<span class="leap-score">{percent(prediction.score)}</span>{lines}</li>'
    )


def _track(score: float | None, kind: str = "") -> str:
    width = 0 if score is None else score * 100
    return f'<span class="leap-track {kind}" aria-hidden="true"><span style="width:{width:.2f}%"></span></span>'
