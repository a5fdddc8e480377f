"""A curriculum as a figure: the teacher's blocks as a tower, the target over the steps as a line, the moves as words.

The page's script only marks one move as the present one (`data-at`); without it the whole curriculum is still read.
"""

from __future__ import annotations

from html import escape

from leap_zoo.card import CurriculumStep, Training

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 34, 14, 14, 34

REASONS = {
    "start": "where this strategy starts",
    "calibration": "the fresh student was nearest to it",
    "similarity": "the student had become similar enough to the block before",
    "timeout": "the block before had had its time",
    "budget": "the block before had used up its share of the steps",
    "schedule": "its step in the schedule had come",
    "retreat": "the deeper block was too far away",
}

# Marks the move that the slider points at, and plays them one after the other.
PLAY = """
const moves = () => Number(element.querySelector('.leap-curriculum')?.dataset.moves || 0);
let timer = null;
const stop = () => {
  clearInterval(timer);
  timer = null;
  const button = element.querySelector('.leap-play');
  if (button) button.textContent = 'Play';
};
const show = at => {
  const root = element.querySelector('.leap-curriculum');
  if (!root) return stop();
  root.querySelector('input').value = at;
  root.querySelectorAll('[data-move]').forEach(part => {
    const move = Number(part.dataset.move);
    part.classList.toggle('is-now', move === at);
    part.classList.toggle('is-done', move < at);
    part.classList.toggle('is-ahead', move > at);
  });
  const said = root.querySelector('.leap-moves .is-now');
  root.querySelector('.leap-said').textContent = said.textContent;
  root.querySelector('input').setAttribute('aria-valuetext', said.textContent);
  const block = Number(said.dataset.block);
  root.querySelectorAll('[data-floor]').forEach(part => {
    const floor = Number(part.dataset.floor);
    part.classList.toggle('is-target', floor === block);
    part.classList.toggle('is-run', floor < block);
  });
};
element.addEventListener('input', event => { stop(); show(Number(event.target.value)); });
element.addEventListener('click', event => {
  const button = event.target.closest('.leap-play');
  if (!button) return;
  if (timer) return stop();
  const input = element.querySelector('input');
  let at = Number(input.value) >= moves() - 1 ? 0 : Number(input.value);
  show(at);
  button.textContent = 'Pause';
  timer = setInterval(() => {
    at += 1;
    show(at);
    if (at >= moves() - 1) stop();
  }, 900);
});
"""


def figure(training: Training, *, still: bool = False) -> str:
    """The curriculum as HTML with an SVG inside. still: only the line, without slider and words."""
    steps = training.curriculum
    chart = _chart(steps)
    if still:
        return f'<figure class="leap-figure">{chart}</figure>'
    last = len(steps) - 1
    said = "".join(
        f'<li data-move="{number}" data-block="{step.block}">{escape(sentence(step, number))}</li>'
        for number, step in enumerate(steps)
    )
    return (
        f'<section class="leap-curriculum" data-moves="{len(steps)}">'
        f'<div class="leap-learned">{_tower(steps)}<figure class="leap-figure">{chart}</figure></div>'
        f'<div class="leap-player"><button type="button" class="leap-button leap-play">Play</button>'
        f'<input type="range" min="0" max="{last}" step="1" value="{last}" aria-label="Move of the curriculum"></div>'
        f'<p class="leap-said" role="status">{escape(sentence(steps[last], last))}</p>'
        f'<details><summary>All {len(steps)} moves in words</summary><ol class="leap-moves">{said}</ol></details>'
        f"</section>"
    )


def sentence(step: CurriculumStep, number: int) -> str:
    """A move in words: when, to which block, why, and the similarity that decided it."""
    reason = REASONS.get(step.reason, step.reason)
    measured = ""
    if step.similarity is not None:
        whose = "to it" if number == 0 else "to the block before"
        measured = f" Similarity {whose}: {step.similarity:.2f}."
    return f"Step {step.step:,}: block {step.block} became the target, as {reason}.{measured}"


def _tower(steps: list[CurriculumStep]) -> str:
    """The teacher's blocks up to the deepest target, the first at the bottom."""
    top = max(step.block for step in steps)
    last = steps[-1].block
    floors = "".join(
        f'<span data-floor="{block}" class="{"is-target" if block == last else "is-run" if block < last else ""}">'
        f"{block}</span>"
        for block in range(top, 0, -1)
    )
    return f'<div class="leap-tower" aria-hidden="true"><p>Teacher</p>{floors}</div>'


def _chart(steps: list[CurriculumStep]) -> str:
    deepest = max(step.block for step in steps)
    tail = steps[-1].step / max(1, len(steps) - 1) if len(steps) > 1 else 1.0
    end = steps[-1].step + (tail or 1.0)  # the card does not say when training ended: the line goes on beyond

    def x(step: float) -> float:
        return LEFT + step / end * (WIDTH - LEFT - RIGHT)

    def y(block: float) -> float:
        return TOP + (deepest + 0.5 - block) / deepest * (HEIGHT - TOP - BOTTOM)

    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(block):.1f}" y2="{y(block):.1f}" class="leap-grid"/>'
        f'<text x="{LEFT - 8}" y="{y(block) + 4:.1f}" text-anchor="end">{block}</text>'
        for block in range(1, deepest + 1)
    )
    ticks = "".join(
        f'<text x="{x(step):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{step:,}</text>' for step in _ticks(end)
    )
    parts = []
    for number, step in enumerate(steps):
        until = steps[number + 1].step if number < len(steps) - 1 else end
        rise = f"M{x(step.step):.1f} {y(steps[number - 1].block):.1f}V" if number else f"M{x(step.step):.1f} "
        parts.append(
            f'<g data-move="{number}" class="{"is-now" if number == len(steps) - 1 else "is-done"}">'
            f'<path d="{rise}{y(step.block):.1f}H{x(until):.1f}"/>'
            f'<circle cx="{x(step.step):.1f}" cy="{y(step.block):.1f}" r="4.5">'
            f"<title>{escape(sentence(step, number))}</title></circle></g>"
        )
    first, final = steps[0], steps[-1]
    words = f"Target block over training steps: {first.block} at first, {final.block} from step {final.step:,} on."
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(words)}">{grid}{ticks}'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">training step</text>{"".join(parts)}</svg>'
        "<figcaption>The teacher's block that the student learns to match, over the steps of training.</figcaption>"
    )


def _ticks(end: float) -> list[int]:
    """Four round steps from 0, leaving room for the axis's name."""
    size = 10 ** max(0, len(str(int(end))) - 1)
    for unit in (size // 10, size // 5, size // 4, size // 2, size, size * 2):
        if unit and end * 0.8 / unit <= 4:
            return [int(unit * n) for n in range(int(end * 0.8 / unit) + 1)]
    return [0]
