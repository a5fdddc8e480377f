"""What came out of a fit, for people: how often it was right, which classifier, and the file to take home."""

from __future__ import annotations

import base64
from html import escape

from leap_zoo.fitting import Fit
from leap_zoo.heads import CrossValidation, HeadCard, encode_head
from serve.demo.markup import chips, empty, note, percent, table

KINDS = {"prototypes": "class means", "logistic": "logistic regression", "discriminant": "discriminant analysis"}
NOTHING_FITTED = empty("Nothing fitted yet", "Name two or more classes, drop photos of each, and press Fit.")


def refusal(detail: str) -> str:
    """Why nothing could be fitted."""
    return empty("This cannot be fitted", detail, alert=True)


def report(found: Fit, seconds: float) -> str:
    """The accuracy on photos that were put aside, class by class, and a link that downloads the head."""
    card = found.head.card
    facts = [
        KINDS[card.kind],
        f"{sum(card.photos)} photos",
        f"{len(card.labels)} classes",
        f"fitted in {seconds:.1f} s",
    ]
    rows = [
        (one.label, [f"{one.photos}", f"{one.right} of {one.tested}" if one.tested else "not tested"])
        for one in found.classes
    ]
    wrong = [note(f"{one.count} × {one.label} was taken for {one.taken_for}.") for one in found.confusions[:3]]
    troubles = [f"{name}: {text}" for name, text in found.bad.items()][:3]
    return (
        f'<section role="status">{_accuracy(card)}{chips(facts)}'
        f"{table('Class by class', ['Class', 'Photos', 'Recognised'], rows)}{''.join(wrong)}"
        f"{note(f'Chosen: {card.how}.')}{''.join(note(text, alert=True) for text in [*found.notes, *troubles])}"
        f"<p>{_download(found)}</p></section>"
    )


def _accuracy(card: HeadCard) -> str:
    tested = card.validation
    if tested is None:
        return '<p class="leap-best">Fitted, but not tested</p>' + note(
            "No class has two photos, so none could be put aside. Add more to learn how good this is."
        )
    low, high = tested.interval
    return f'<p class="leap-best">{percent(tested.accuracy)} recognised</p>' + note(
        f"Of {tested.n} photos, each put aside once in {tested.folds} rounds and not learned from in that round. "
        f"95 % interval: {percent(low)} to {percent(high)}.{_doubt(tested)}"
    )


def _doubt(tested: CrossValidation) -> str:
    if tested.confidence is None or tested.unsure is None:
        return ""
    unsure = f"{percent(tested.unsure)} were taken for none of the classes" if tested.unsure else "None was doubted"
    return f" Scores were {percent(tested.confidence)} on average. {unsure}."


def _download(found: Fit) -> str:
    """The file itself is in the link: nothing of it stays on the server."""
    data = encode_head(found.head)
    address = base64.b64encode(data).decode()
    return (
        f'<a class="leap-button" id="leap-head-file" download="my-classes.head" '
        f'href="data:application/octet-stream;base64,{address}">Download my-classes.head</a> '
        f"<small>{len(data):,} bytes, for <code>{escape(found.head.card.model)}</code>: "
        f"<code>leap-zoo classify photo.jpg --head my-classes.head</code></small>"
    )
