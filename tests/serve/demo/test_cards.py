"""The page's HTML: what it shows, and that nothing from a card, a label or a visitor becomes markup."""

from __future__ import annotations

import msgspec

from leap_zoo import Prediction, Predictions
from leap_zoo.card import CurriculumStep, File, Metric
from serve.demo import bars
from serve.demo.cards import card_view
from serve.demo.curriculum import figure, sentence
from serve.demo.markup import thumbnails
from serve.engine import Classified, Engine


def anything(_: File) -> bool:
    return True


HOSTILE = "<script>alert(1)</script>"


def classified(predictions: list[Prediction], head: str, milliseconds: float, *, unsure: bool = False) -> Classified:
    times = {"decode_ms": 0.0, "inference_ms": milliseconds, "queue_ms": 0.0}
    found = Predictions(predictions, unsure=unsure)
    return Classified(predictions=[found], head=head, model="m", revision="1", precision="int8", **times)


def test_bars__best_first_with_the_milliseconds() -> None:
    html = bars.bars(classified([Prediction("cat", 0.75, 3), Prediction("dog", 0.25, 1)], "pets", 4.25), "int8")
    assert html.index("cat") < html.index("dog")
    for text in ("75.0 %", "25.0 %", "width:75.00%", "4.2 ms", "int8", "head pets"):
        assert text in html


def test_bars__escape_labels() -> None:
    html = bars.bars(classified([Prediction(HOSTILE, 1.0, 0)], HOSTILE, 1.0), "int8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 3


def test_refusal__is_an_alert_and_escaped() -> None:
    html = bars.refusal(HOSTILE)
    assert 'role="alert"' in html
    assert "<script" not in html


def test_card_view__says_what_the_card_says(engine: Engine) -> None:
    html = card_view(engine.models.default.card, "../zoo", anything)
    artifact = engine.models.default.artifact
    for text in ("leap-tiny-test", "300", "int8", artifact.sha256, "top1 (colours)", "drawn, test", "100.0 %"):
        assert text in html
    for text in (f'href="../zoo/leap-tiny-test/{artifact.file}" download', "fp32 ONNX", "int8 ONNX"):
        assert text in html
    for text in ("30.0 % to 100.0 %", "Apache-2.0", "Teacher FLOPs saved", "25.0 %", "leap, 3 target blocks"):
        assert text in html


def test_card_view__a_file_that_is_not_here_is_no_link(engine: Engine) -> None:
    artifact = engine.models.default.artifact
    html = card_view(engine.models.default.card, "../zoo", lambda file: file.sha256 == artifact.sha256)
    assert html.count("download>") == 1
    assert html.count("Not on this server") == len(engine.models.default.card.artifacts) - 1


def test_card_view__escapes_the_card(engine: Engine) -> None:
    model = engine.models.default
    metric = Metric(name=HOSTILE, dataset=HOSTILE, split=HOSTILE, n=1, value=0.5)
    artifact = msgspec.structs.replace(model.artifact, metrics=[metric])
    card = msgspec.structs.replace(model.card, description=HOSTILE, artifacts=[artifact])
    html = card_view(card, "../zoo", anything)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 4


def test_card_view__a_cosine_is_no_share(engine: Engine) -> None:
    metric = Metric(name="embedding cosine", dataset="d", split="s", n=1000, value=0.9933, interval=(0.99, 0.995))
    artifact = msgspec.structs.replace(engine.models.default.artifact, metrics=[metric])
    html = card_view(msgspec.structs.replace(engine.models.default.card, artifacts=[artifact]), "../zoo", anything)
    assert "0.9933" in html
    assert "1,000" in html
    assert "0.99 to 0.995" in html


def test_compared__a_bar_for_each_file_and_whether_they_agree() -> None:
    ours = classified([Prediction("cat", 0.75, 3), Prediction("dog", 0.25, 1)], "pets", 2.0)
    theirs = classified([Prediction("dog", 0.6, 1)], "pets", 4.0)
    html = bars.compared(ours, "int8", theirs, "fp32")
    for text in ("int8 2.0 ms", "fp32 4.0 ms", "75.0 %", "60.0 %", "The fp32 file says: dog."):
        assert text in html
    assert "Both files say the same." in bars.compared(ours, "int8", ours, "fp32")


def test_bars__not_sure_instead_of_a_wrong_word() -> None:
    ours = classified([Prediction("cat", 0.75, 3), Prediction("dog", 0.25, 1)], "", 2.0, unsure=True)
    theirs = classified([Prediction("cat", 0.6, 1)], "", 4.0)
    for html in (bars.bars(ours, "int8"), bars.compared(ours, "int8", theirs, "fp32")):
        assert '<p class="leap-best">Not sure: unlike the photos it learned from</p>' in html
        assert "75.0 %" in html  # the scores stay to be seen
    assert "The fp32 file says: cat." in html


def test_curriculum__a_mark_and_a_sentence_for_each_move(engine: Engine) -> None:
    training = engine.models.default.card.training
    assert training is not None
    html = figure(training)
    assert html.count("<circle") == html.count("<li data-move") == 3
    assert "Step 30: block 3 became the target, as the block before had had its time." in html
    assert "Similarity to the block before: 0.50." in html


def test_curriculum__of_one_move_or_with_an_unknown_reason(engine: Engine) -> None:
    training = engine.models.default.card.training
    assert training is not None
    step = CurriculumStep(step=0, block=12, similarity=None, reason=HOSTILE)
    html = figure(msgspec.structs.replace(training, curriculum=[step]))
    assert "<script" not in html
    assert sentence(step, 0) == f"Step 0: block 12 became the target, as {HOSTILE}."


def test_thumbnails__escape_what_a_file_is_called() -> None:
    html = thumbnails("photos", [("0", '"><script>', "data:image/jpeg;base64,AA")])
    assert "<script" not in html
