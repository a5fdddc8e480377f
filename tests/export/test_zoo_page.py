"""docs/zoo.md, its figure and the README's table: from cards and figures, and nothing else."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from made_up_zoo import COSINE, MAP, PROBE, THOUSAND, made_up_cards, made_up_figures
from msgspec.structs import replace

from export import tables, text
from leap_zoo.card import WORLD, ModelCard
from train.research.results import Result, read_results, write_results

FIGURES = made_up_figures()


def changed(metric: str, model: str, value: float) -> list[Result]:
    """The figures, with another value of one of a model."""
    return [
        replace(figure, value=value) if (figure.metric, figure.subject) == (metric, model) else figure
        for figure in FIGURES
    ]


def page(
    figures: list[Result] = FIGURES,
    cards: list[ModelCard] | None = None,
    trials: dict[str, list[Result]] | None = None,
    template: str = "zoo_page.md",
) -> str:
    about = tables.zoo_values(cards or made_up_cards(), figures, trials)
    return text.render(template, **about, measured=[], taught={})


def rows(page: str) -> list[list[str]]:
    """The cells of all lines of tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]


def larger(figures: list[Result]) -> str:
    return section("Is a larger student better?", page(figures))


def close(figures: list[Result]) -> str:
    return section("Is leap-tiny close to its teacher?", page(figures))


def picture(figures: list[Result]) -> str:
    return page(figures, template="zoo.svg")


def section(title: str, page: str) -> str:
    _, found, rest = page.partition(f"## {title}\n")
    assert found, f"no section {title!r}"
    return rest.partition("\n## ")[0]


def test_tables__the_teacher_first_and_a_line_per_file() -> None:
    found = rows(section("Retrieval", page()))
    assert found[0] == ["model", "file", "grocery, test: mAP, n = 2485"]
    assert [row[0] for row in found[1:]] == ["vit_made_up at 224 px", "vit_made_up at 160 px"] + [
        name for name in ("leap-micro", "leap-nano", "leap-tiny") for _ in range(2)
    ]
    assert found[1][2] == "40.0 [39.4, 40.6]"
    assert found[4] == ["leap-micro", "`model_int8.onnx`", "20.0 [19.4, 20.6]"]


def test_tables__skip_figures_of_another_revision() -> None:
    cards = made_up_cards()
    fresh = [replace(artifact, sha256="9" * 64) for artifact in cards[1].artifacts]
    cards[1] = replace(cards[1], artifacts=fresh)
    found = page(cards=cards)
    assert "leap-nano" not in section("Retrieval", found)
    assert "leap-nano" in section("Files", found)
    assert rows(section("Files", found))[5] == ["leap-nano", "`model.onnx`", "2.50", "224", "10.00", "3.00"]


def test_readme__a_line_per_student_then_the_teacher() -> None:
    world = {"dataset": WORLD, "split": "test", "n": 1000, "value": 0.73, "low": 0.70, "high": 0.76}
    nano = [f for f in FIGURES if (f.subject, f.metric) == ("leap-nano", THOUSAND)]
    table = page([*FIGURES, *(replace(f, **world) for f in nano)], template="zoo.md")
    found = rows(table)
    assert found[0] == ["model", "MB", "ms", "photos of the world: top-1, %", "groceries: mAP, %"]
    assert [row[0] for row in found[1:4]] == ["`leap-micro`", "`leap-nano`", "`leap-tiny`"]
    # Of the file that is loaded.
    assert found[2] == ["`leap-nano`", "3.00", "1.50", "73.0 [70.0, 76.0]", "19.0 [18.4, 19.6]"]
    assert found[4] == ["vit_made_up at 224 px", "22.90", "", "", "40.0 [39.4, 40.6]"]
    assert len(found) == 1 + 3 + 2
    assert "nips2017: n = 1000; grocery: n = 2485" in table


def test_peers__columns_on_which_they_are_better() -> None:
    peer = {"subject": "other_net at 224 px", "variant": "other.pth", "hardware": "a CPU", "commit": "0123abc"}
    tiny = {(f.metric, f.dataset): f for f in FIGURES if f.subject == "leap-tiny"}
    theirs = [
        Result(metric="parameters", value=4_600_000, **peer),
        replace(tiny[PROBE, "drawn"], **peer, digest="e" * 64, value=0.99, low=0.98, high=1.0),
        replace(tiny[MAP, "grocery"], **peer, digest="e" * 64, value=0.10, low=0.09, high=0.11),
    ]
    title = "Is another project's model better?"
    found = section(title, page([*FIGURES, *(replace(row, digest="e" * 64) for row in theirs)]))
    assert "against `other_net at 224 px` (4.60 M parameters, a peer): behind on 1 of 2 columns." in found
    assert [row[0] for row in rows(found)[1:]] == ["drawn, val: probe"]
    assert title not in page()


def test_larger__lists_where_it_is_not_better() -> None:
    found = larger(FIGURES)
    assert rows(found)[1:] == [["grocery, test: mAP", "20.0 [19.4, 20.6]", "19.0 [18.4, 19.6]", "1.0", "overlap"]]
    assert found.count("not better on 1 of 5 columns") == 1
    assert "`leap-tiny` (5.50 M parameters, `model_int8.onnx`) against `leap-nano`" in found
    assert found.count("not better on 0 of 5 columns") == 1


def test_larger__the_same_is_not_better_and_far_is_apart() -> None:
    same = larger(changed(PROBE, "leap-tiny", 0.9))
    assert "not better on 1 of 5 columns" in same.partition("`leap-tiny`")[2]
    far = {"value": 0.1, "low": 0.09, "high": 0.11}
    figures = [replace(f, **far) if (f.metric, f.subject) == (MAP, "leap-nano") else f for f in FIGURES]
    assert rows(larger(figures))[1][-1] == "are apart"


def test_close__more_than_five_points_below_either_teacher() -> None:
    found = close(FIGURES)
    assert [row[0] for row in rows(found) if row[0] != "column"] == [
        "grocery, test: mAP", "drawn, held-out: top-1 of 1000 classes", "grocery, test: mAP",
    ]  # fmt: skip
    assert rows(found)[1] == ["grocery, test: mAP", "40.0 [39.4, 40.6]", "25.0 [24.4, 25.6]", "15.0", "are apart"]
    assert "vit_made_up at 160 px` (5.70 M parameters, the teacher): more than 5 points behind on 1 of 3" in found
    near = close(changed(MAP, "leap-tiny", 0.30))
    assert "more than 5 points behind on 0 of 3 columns." in near


def test_comparisons__only_of_students_that_are_there() -> None:
    found = page(cards=made_up_cards()[:1])
    assert "close to its teacher" not in found
    assert "Is a larger student better?" not in found


def test_trials__a_row_per_change_and_a_column_per_figure(tmp_path: Path) -> None:
    where = {"dataset": "drawn", "split": "val", "n": 100}
    tried = []
    for change, values in (("baseline", (0.5, 0.25)), ("EMA of weights", (0.625, 0.125))):
        about = {"subject": change, "variant": "nano", "hardware": "a CPU", "commit": "0123abcdef0123"}
        for metric, value in zip((PROBE, COSINE), values, strict=True):
            tried.append(Result(metric=metric, value=value, low=value - 0.125, high=value + 0.125, **where, **about))
        costs = {"epochs": 4.0, "photos": 9103.0, "CPU seconds": 120.0}
        tried += [Result(metric=metric, value=value, **about) for metric, value in costs.items()]
    write_results(tmp_path / "ablations.csv", tried)
    read = read_results(tmp_path / "ablations.csv")
    assert read == tried
    found = section("What each change gave", page(trials={"What each change gave": read}))
    figures = ["drawn, val: probe", "drawn, val: cosine to teacher, mean"]
    assert rows(found) == [
        ["change", "student", "epochs", "photos", "CPU minutes", *figures],
        ["baseline", "nano", "4", "9103", "2", "50.0 [37.5, 62.5]", "0.250 [0.125, 0.375]"],
        ["EMA of weights", "nano", "4", "9103", "2", "62.5 [50.0, 75.0]", "0.125 [0.000, 0.250]"],
    ]
    assert "a CPU, commit `0123abcdef01`" in found


def test_figure__has_every_file_and_the_teacher() -> None:
    said = [part.strip() for part in ElementTree.fromstring(picture(FIGURES)).itertext()]
    for part in ("nano int8", "micro fp32", "ms per photo, one thread", "MB", "teacher: vit_made_up at 224 px"):
        assert part in said
    assert "drawn, held-out: top-1 of 1000 classes, n = 500" in said


def test_figure__follows_the_figures() -> None:
    assert picture(changed(THOUSAND, "leap-nano", 0.45)) != picture(FIGURES)
    assert picture(changed(THOUSAND, "vit_made_up at 160 px", 0.45)) != picture(FIGURES)
    assert picture(changed(MAP, "leap-nano", 0.45)) == picture(FIGURES)


def test_figure__of_nothing_measured() -> None:
    assert tables.zoo_values(made_up_cards(), [])["files"] == []
    untimed = [replace(card, latency=[]) for card in made_up_cards()]
    assert tables.zoo_values(untimed, FIGURES)["files"] != []  # their sizes are known
    assert "fp32" in page(cards=untimed, template="zoo.svg")
