"""What a model sees on a photo, as bars; two files of the model side by side where both are there."""

from __future__ import annotations

from html import escape

from leap_zoo import Predictions
from serve.demo.markup import chips, empty, note, percent
from serve.engine import Classified

NO_PHOTO = empty(
    "No photo yet", "Drop one, choose a file, or paste from the clipboard. The classes appear here as bars."
)

NOT_SURE = "Not sure: unlike the photos it learned from"


def refusal(detail: str) -> str:
    """What is wrong with the photo, in the place of the bars.

    In a passing notice it would leave the last photo's classes beside this one.
    """
    return empty("This photo cannot be used", detail, alert=True)


def bars(answer: Classified, precision: str) -> str:
    """The predictions as bars, best first, and how long they took."""
    predictions = answer.predictions[0]
    rows = "".join(
        f'<li><span class="leap-label">{escape(one.label)}</span><span class="leap-score">{percent(one.score)}</span>'
        f'<span class="leap-line">{_track(one.score)}</span></li>'
        for one in predictions
    )
    facts = [_took(precision, answer), _decoding(answer), _head(answer)]
    return _result(_best(predictions), rows, chips(facts))


def compared(answer: Classified, precision: str, other: Classified, other_precision: str) -> str:
    """The same photo by two files: a bar each for every class that the first one ranks high.

    Both were run on the same photo in turns, so their milliseconds can be compared.
    """
    predictions, others = answer.predictions[0], other.predictions[0]
    scores = {one.label: one.score for one in others}
    rows = "".join(
        f'<li><span class="leap-label">{escape(one.label)}</span>'
        f"{_line(precision, one.score)}{_line(other_precision, scores.get(one.label), 'leap-second')}</li>"
        for one in predictions
    )
    facts = [
        _took(precision, answer),
        _took(other_precision, other),
        _decoding(answer),
        _head(answer),
    ]
    agree = _best(predictions) == _best(others)
    words = "Both files say the same." if agree else f"The {other_precision} file says: {_best(others)}."
    return _result(_best(predictions), rows, chips(facts) + note(words))


def _best(predictions: Predictions) -> str:
    return NOT_SURE if predictions.unsure else predictions[0].label


def _result(best: str, rows: str, below: str) -> str:
    return (
        f'<section class="leap-result" role="status"><p class="leap-best">{escape(best)}</p>'
        f'<ol class="leap-bars" aria-label="Classes, best first">{rows}</ol>{below}</section>'
    )


def _took(precision: str, answer: Classified) -> str:
    return f"{precision} {answer.inference_ms:.1f} ms"


def _decoding(answer: Classified) -> str:
    return f"decoding {answer.decode_ms:.1f} ms"


def _head(answer: Classified) -> str:
    return f"head {answer.head}" if answer.head else "your own classes"


def _line(name: str, score: float | None, kind: str = "") -> str:
    value = "—" if score is None else percent(score)
    return f'<span class="leap-line"><small>{escape(name)}</small>{_track(score, kind)}<small>{value}</small></span>'


def _track(score: float | None, kind: str = "") -> str:
    width = 0 if score is None else score * 100
    return f'<span class="leap-track {kind}" aria-hidden="true"><span style="width:{width:.2f}%"></span></span>'
