"""What the tab Classify makes of an answer."""

from __future__ import annotations

from leap_zoo import Prediction, Predictions
from serve.demo.classify import shown
from serve.engine import Classified


def classified(*, unsure: bool) -> Classified:
    found = Predictions([Prediction("crane", 0.6, 3), Prediction("crane", 0.3, 1), Prediction("dog", 0.1, 2)])
    found.unsure = unsure
    times = {"decode_ms": 1.0, "inference_ms": 2.0, "queue_ms": 0.0}
    return Classified(predictions=[found], head="pets", model="m", revision="1", precision="int8", **times)


def test_shown__a_sure_answer_has_its_class_as_the_heading() -> None:
    label, note = shown(classified(unsure=False))
    assert label["show_heading"]
    assert label["value"] == {"crane": 0.6, "dog": 0.1}
    assert note == "int8: inference 2.0 ms, decoding 1.0 ms."


def test_shown__not_sure_instead_of_a_wrong_word() -> None:
    label, note = shown(classified(unsure=True))
    assert not label["show_heading"]
    assert note.startswith("### Not sure")
    assert label["value"]  # the scores stay to be seen
