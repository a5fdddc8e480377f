"""The page's HTML: what it shows, and that nothing from a card or a label becomes markup."""

from __future__ import annotations

import msgspec

from leap_zoo import Prediction
from leap_zoo.card import Metric
from leap_zoo.model import Model
from serve import views
from serve.engine import Classified, Engine

HOSTILE = "<script>alert(1)</script>"


def classified(predictions: list[Prediction], head: str, milliseconds: float) -> Classified:
    times = {"decode_ms": 0.0, "inference_ms": milliseconds, "queue_ms": 0.0}
    return Classified(predictions=[predictions], head=head, model="m", revision="1", precision="int8", **times)


def test_bars__best_first_with_the_milliseconds() -> None:
    html = views.bars(classified([Prediction("cat", 0.75, 3), Prediction("dog", 0.25, 1)], "pets", 4.25), "int8")
    assert html.index("cat") < html.index("dog")
    for text in ("75.0 %", "25.0 %", "width:75.00%", "4.2 ms", "int8", "head pets"):
        assert text in html


def test_bars__escape_labels() -> None:
    html = views.bars(classified([Prediction(HOSTILE, 1.0, 0)], HOSTILE, 1.0), "int8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 3


def test_refusal__is_an_alert_and_escaped() -> None:
    html = views.refusal(HOSTILE)
    assert 'role="alert"' in html
    assert "<script" not in html


def test_card_view__says_what_the_card_says(engine: Engine) -> None:
    html = views.card_view(engine.models.default)
    artifact = engine.models.default.artifact
    for text in ("leap-tiny-test", "300", "int8", artifact.sha256, "top1 (colours)", "drawn, test", "100.0 %"):
        assert text in html
    for text in ("30.0 % to 100.0 %", "Apache-2.0", "Teacher FLOPs saved", "25.0 %", "leap, 1 target block"):
        assert text in html


def test_card_view__escapes_the_card(engine: Engine) -> None:
    model = engine.models.default
    metric = Metric(name=HOSTILE, dataset=HOSTILE, split=HOSTILE, n=1, value=0.5)
    artifact = msgspec.structs.replace(model.artifact, metrics=[metric])
    card = msgspec.structs.replace(model.card, description=HOSTILE, artifacts=[artifact])
    html = views.card_view(Model(card, artifact, model.session))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 4


def test_card_view__a_cosine_is_no_share(engine: Engine) -> None:
    metric = Metric(name="embedding cosine", dataset="d", split="s", n=1000, value=0.9933, interval=(0.99, 0.995))
    artifact = msgspec.structs.replace(engine.models.default.artifact, metrics=[metric])
    html = views.card_view(Model(engine.models.default.card, artifact, engine.models.default.session))
    assert "0.9933" in html
    assert "1,000" in html
    assert "0.99 to 0.995" in html
