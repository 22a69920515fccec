"""Records made from annotations: ranks, scores, verdict balance, wording and fall-backs."""

from __future__ import annotations

import collections
import dataclasses
import io
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.data.adpl import preferences, wording
from sage_jax.data.adpl.facts import Vocabulary, load_vocabulary
from sage_jax.data.adpl.preferences import INSPECTION_QUESTION, PLACES, cell_of, make_records
from sage_jax.data.records import PAIR_TYPES, Box, Defect, Question, Record
from sage_jax.data.sources.generated import CATEGORIES, DEFECT_TYPES
from sage_jax.metrics.mle import Reading, judge, read
from tests.support.annotated_images import annotated

VERDICTS = {"Yes": True, "No": False}


def verdict(question: Question) -> bool:
    return VERDICTS[question.answers[0].text.split(".")[0]]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary("")


@pytest.fixture(scope="module")
def records(vocabulary: Vocabulary) -> list[Record]:
    """All kinds, over generator categories and over boards and objects with names that the vocabulary lacks."""
    rng = random.Random(5)
    boards = ["open", "short", "mousebite", "spur", "copper", "pin-hole"]
    sources = [("washer", list(DEFECT_TYPES)), ("bearing ring", list(DEFECT_TYPES)), ("circuit board", boards)]
    sources += [("fuel_valve", ["bent_lead", "crack", "bad"]), ("zipper", ["split_teeth", "rough", "fabric_border"])]
    made = []
    for index in range(360):
        category, types = sources[index // 2 % len(sources)]
        image = annotated(index, rng, category, types, most=4 if category == "circuit board" else 2)
        made += make_records(image, vocabulary, pair_types=PAIR_TYPES, records=3, index=index, seed=0)
    return made


@pytest.fixture(scope="module")
def balanced(vocabulary: Vocabulary) -> list[Record]:
    """All kinds over the generator's types, half of the images defective, enough to measure rates."""
    rng = random.Random(1)
    made = []
    for index in range(900):
        image = annotated(index, rng, rng.choice(CATEGORIES), list(DEFECT_TYPES))
        made += make_records(image, vocabulary, pair_types=PAIR_TYPES, records=3, index=index, seed=0)
    return made


def test_records_hold_five_questions_of_four_answers_and_keep_the_image(records: list[Record]):
    assert len({record.record_id for record in records}) == len(records)
    for record in records:
        assert len(record.questions) == 5
        assert all(len(question.answers) == 4 for question in record.questions)
        assert record.record_id.startswith(record.image_id + "/")
        assert record.anomalous == bool(record.defects)
        assert record.facts


def test_kinds_are_taken_in_turn_from_the_index(vocabulary: Vocabulary):
    image = annotated(0, random.Random(0), "washer", ["dent"])
    kinds = ("defect diagnosis", "standard comparison")
    for index in range(4):
        made = make_records(image, vocabulary, pair_types=kinds, records=1, index=index, seed=0)
        assert [record.pair_type for record in made] == [kinds[index % 2]]
    both = make_records(image, vocabulary, pair_types=kinds, records=2, index=1, seed=0)
    assert [record.pair_type for record in both] == ["standard comparison", "defect diagnosis"]


def test_the_same_arguments_give_the_same_records_and_another_seed_others(vocabulary: Vocabulary):
    image = annotated(0, random.Random(0), "washer", ["dent"])
    first, again, other = (
        make_records(image, vocabulary, pair_types=PAIR_TYPES, records=3, index=0, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def score_as_read(answer: Reading, best: Reading) -> float:
    """`score_of` written out over what the texts say."""
    if not answer.state:
        kind = 0.0
    elif answer.state != best.state:
        kind = -0.75
    elif not answer.terms and best.terms:
        kind = 0.0
    else:
        union = answer.terms | best.terms
        kind = len(answer.terms & best.terms) / len(union) if union else 1.0
        kind = kind or -0.75
    if answer.state == best.state == "good":
        place = 0.5 if answer.places else 1.0
    elif not answer.places:
        place = 1.0 if answer.state == best.state and not best.places else 0.0
    elif answer.state != best.state or not best.places:
        place = -0.75
    else:
        grid = {name: (index // 3, index % 3) for index, name in enumerate(PLACES)}
        steps = np.array([[np.abs(np.subtract(grid[a], grid[b])).sum() for b in best.places] for a in answer.places])
        marks = np.array([1.0, 0.5, -0.25, -0.75, -0.75])
        place = float(np.concatenate([marks[steps.min(axis=1)], marks[steps.min(axis=0)]]).mean())
    if answer.verdict != best.verdict:
        return 1.0 + 0.25 * (kind >= 0) + 0.25 * (place >= 0)
    return 3.0 + kind + place


def test_every_score_is_what_the_text_says_that_is_true_less_what_is_false(
    records: list[Record], vocabulary: Vocabulary
):
    for record in records:
        terms = vocabulary.terms_with(defect.type for defect in record.defects)
        for question in record.questions:
            said = [
                read(answer.text, defect_terms=terms, places=PLACES, synonyms=vocabulary.synonyms)
                for answer in question.answers
            ]
            for answer, text in zip(question.answers, said, strict=True):
                assert answer.score == pytest.approx(score_as_read(text, said[0])), (question, answer)


def test_training_scores_are_not_the_evaluating_rubrics(records: list[Record], vocabulary: Vocabulary):
    """A judge that grades its own teacher proves nothing: the two rank by rules of their own."""
    given, marked = [], []
    for record in records:
        terms = vocabulary.terms_with(defect.type for defect in record.defects)
        for question in record.questions:
            names = {"defect_terms": terms, "places": PLACES, "synonyms": vocabulary.synonyms}
            given += [answer.score for answer in question.answers]
            marked += [judge(answer.text, question.answers[0].text, **names).average for answer in question.answers]
    assert np.mean(np.abs(np.subtract(given, marked)) > 0.1) > 0.5
    assert "sage_jax.metrics" not in Path(wording.__file__).read_text() + Path(preferences.__file__).read_text()


def test_scores_fall_strictly_from_five_and_verdicts_are_right_in_all_but_the_last(records: list[Record]):
    for record in records:
        for question in record.questions:
            scores = [answer.score or 0.0 for answer in question.answers]
            assert scores[0] == 5.0 and scores[-1] >= 1.0
            assert all(better > worse for better, worse in zip(scores, scores[1:], strict=False))
            given = [VERDICTS[answer.text.split(".")[0]] for answer in question.answers]
            assert given[:3] == [given[0]] * 3 and given[3] != given[0]


@pytest.mark.parametrize("kind", PAIR_TYPES)
@pytest.mark.parametrize("anomalous", [False, True])
def test_which_adjacent_pair_is_closest_varies(records: list[Record], kind: str, anomalous: bool):
    closest: collections.Counter[int] = collections.Counter()
    for record in records:
        if record.pair_type == kind and record.anomalous == anomalous:
            for question in record.questions:
                scores = [answer.score or 0.0 for answer in question.answers]
                closest[int(np.argmin(-np.diff(scores)))] += 1
    assert set(closest) == {0, 1, 2} and min(closest.values()) > 0.08 * closest.total()


@pytest.mark.parametrize("kind", PAIR_TYPES)
def test_verdicts_are_balanced_for_each_kind_and_position(balanced: list[Record], kind: str):
    verdicts = np.array([[verdict(question) for question in r.questions] for r in balanced if r.pair_type == kind])
    assert 0.42 < verdicts.mean() < 0.58
    by_position = verdicts.mean(axis=0)
    assert 0.4 < by_position.min() and by_position.max() < 0.6


@pytest.mark.parametrize("rate", [0.5, 0.85])
@pytest.mark.parametrize("kind", PAIR_TYPES[1:])
def test_a_defective_part_is_asked_for_what_it_shows_as_often_as_said(vocabulary: Vocabulary, rate: float, kind: str):
    rng, found = random.Random(1), list[Record]()
    for index in range(900):
        image = annotated(index, rng, rng.choice(CATEGORIES), list(DEFECT_TYPES))
        given = {"pair_types": (kind,), "records": 1, "index": index, "seed": 0}
        found += make_records(image, vocabulary, asked_present_rate=rate, **given)
    asked = [(record, question) for record in found for question in record.questions]
    of_good = {question.text: verdict(question) for record, question in asked if not record.anomalous}
    shown = [
        verdict(question) != of_good[question.text]
        for record, question in asked
        if record.anomalous and question.text in of_good
    ]
    assert len(shown) > 1500 and abs(np.mean(shown) - rate) < 0.04


def templates() -> dict[str, str]:
    """Pattern of each question wording -> the wording."""
    texts = [wording.SHOWS, wording.CONSEQUENCE, wording.COMPARISON]
    found = {}
    for template in (text for group in texts for polarity in group.values() for text in polarity):
        found["".join(".+" if part.startswith("{") else re.escape(part) for part in re.split(r"({\w+})", template))] = (
            template
        )
    return found


def test_no_wording_predicts_the_verdict(balanced: list[Record]):
    patterns = templates()
    verdicts: dict[str, list[bool]] = collections.defaultdict(list)
    for question in (question for record in balanced for question in record.questions):
        fitting = [text for pattern, text in patterns.items() if re.fullmatch(pattern, question.text)]
        verdicts[max(fitting, key=lambda text: len(re.sub(r"{\w+}", "", text)))].append(verdict(question))
    assert set(verdicts) == set(patterns.values())
    for template, given in verdicts.items():
        assert len(given) > 100 and 0.35 <= np.mean(given) <= 0.65, (template, np.mean(given))


def test_no_defect_type_predicts_the_verdict(balanced: list[Record], vocabulary: Vocabulary):
    verdicts: dict[str, list[bool]] = collections.defaultdict(list)
    for record in balanced:
        if record.pair_type == "defect identification":
            for question in record.questions:
                for words in map(vocabulary.defect_of, DEFECT_TYPES):
                    if re.search(rf"\b({words.term}|{words.plural})\b", question.text):
                        verdicts[words.term].append(verdict(question))
    assert set(verdicts) == set(DEFECT_TYPES)
    for term, given in verdicts.items():
        assert 0.33 < np.mean(given) < 0.67, term


def truth_of(question: str, record: Record, vocabulary: Vocabulary) -> bool | None:
    """The verdict of a "does it show" or "other than" question, found from its text and the annotations alone."""
    present = {vocabulary.defect_of(defect.type).term for defect in record.defects}
    terms = vocabulary.terms_with(defect.type for defect in record.defects)
    names = {word: term for term in terms for word in (term, vocabulary.defect_of(term).plural)}
    found = re.search(rf"\b({'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})\b", question)
    if found is None:
        return None
    asked = names[found.group()]
    if re.search("other than|is not|aside", question):
        shown = bool(present - {asked})
    else:
        shown = asked in present
    return shown != bool(re.search("free of|absent|aside", question))


def test_identification_verdicts_agree_with_the_annotations(records: list[Record], vocabulary: Vocabulary):
    checked: collections.Counter[tuple[bool, bool]] = collections.Counter()
    for record in records:
        if record.pair_type == "defect identification":
            for question in record.questions:
                truth = truth_of(question.text, record, vocabulary)
                if truth is not None:
                    assert verdict(question) == truth, question
                    checked[bool(record.defects), truth] += 1
    assert min(checked.values()) > 100 and len(checked) == 4


def test_diagnosis_verdicts_agree_with_the_risks_of_the_defects(records: list[Record], vocabulary: Vocabulary):
    risks = {words.risk.name: words.risk for words in vocabulary.defects.values()}.values()
    for record in records:
        if record.pair_type != "defect diagnosis":
            continue
        present = {vocabulary.defect_of(defect.type).risk.name for defect in record.defects}
        for question in record.questions:
            fails = next((risk.name for risk in risks if risk.fails in question.text), None)
            works = next((risk.name for risk in risks if risk.works in question.text), None)
            assert verdict(question) == (fails in present if fails else works not in present), question


def test_the_inspection_question_is_asked_once_a_comparison_anywhere_in_it(records: list[Record]):
    positions = set()
    for record in records:
        asked = [question for question in record.questions if question.text == INSPECTION_QUESTION]
        assert len(asked) == (1 if record.pair_type == "standard comparison" else 0)
        assert all(verdict(question) == record.anomalous for question in asked)
        positions |= {record.questions.index(question) for question in asked}
    assert positions == set(range(5))


def test_best_answers_name_a_defect_and_its_place(records: list[Record], vocabulary: Vocabulary):
    for record in records:
        with Image.open(io.BytesIO(record.test_image)) as image:
            cells = {cell_of(defect.box, *image.size) for defect in record.defects}
        terms = {vocabulary.defect_of(defect.type).term for defect in record.defects}
        for text in (question.answers[0].text for question in record.questions):
            named = re.findall(rf" at the ({'|'.join(PLACES)})", text)
            assert bool(named) == bool(record.defects) and set(named) <= cells, text
            assert not terms or any(term in text for term in terms), text


def test_best_answers_name_the_defect_asked_about_or_else_the_largest(vocabulary: Vocabulary):
    crack, dent = Defect("crack", Box(0, 0, 20, 20)), Defect("dent", Box(80, 50, 88, 58))
    image = dataclasses.replace(annotated(1, random.Random(0), "washer", []), defects=(dent, crack))
    cells = {"crack": "the upper left", "dent": "the lower right"}
    asked_about = collections.Counter()
    for seed in range(40):
        compared, identified = make_records(image, vocabulary, pair_types=PAIR_TYPES, records=2, index=0, seed=seed)
        for question in compared.questions:
            assert re.search("crack at the upper left and .*dent at the lower right", question.answers[0].text)
        for question in identified.questions:
            found = re.search("crack|dent", question.text)
            asked = found.group() if found else ""
            named = asked or "crack"
            asked_about[asked, named] += 1
            (place,) = re.findall(rf" at the (?:{'|'.join(PLACES)})", question.answers[0].text)
            assert f"{named}{place}" == f"{named} at {cells[named]}" and f"{named} at" in question.answers[0].text
    assert set(asked_about) == {("crack", "crack"), ("dent", "dent"), ("", "crack")}


def test_sentences_stay_short(records: list[Record]):
    for record in records:
        for question in record.questions:
            assert len(question.text.split()) <= 14, question.text
            assert all(len(answer.text.split()) <= 22 for answer in question.answers), question


def test_wording_varies(balanced: list[Record]):
    for kind in PAIR_TYPES:
        questions = [question for record in balanced if record.pair_type == kind for question in record.questions]
        assert len({re.sub("this .*", "", question.text) for question in questions}) >= 5
        assert len({question.answers[0].text for question in questions}) > 100


def test_descriptions_share_no_wording_with_the_questions(records: list[Record]):
    asked = {question.text for record in records for question in record.questions}
    for record in records:
        assert 3 <= len(record.descriptions) <= 5
        for question in record.descriptions:
            assert len(question.answers) == 1 and question.text not in asked


def test_descriptions_name_the_part_and_its_mark(records: list[Record]):
    affirmed = []
    for record in records:
        name = record.category.replace("_", " ")
        answers = {question.text: question.answers[0].text for question in record.descriptions}
        assert name in answers["Which part is this?"] and name in answers["What does the picture show?"]
        claim = next(text for text in answers if text.startswith("Is this a"))
        affirmed.append(answers[claim].startswith("Yes."))
        assert affirmed[-1] == claim.endswith((f" a {name}?", f" an {name}?"))
        assert (" at the " in answers["Where is the mark?"]) == bool(record.defects)
    assert 0.45 < np.mean(affirmed) < 0.55


@pytest.mark.parametrize(
    ("box", "place"),
    [
        (Box(0, 0, 10, 10), "upper left"),
        (Box(40, 0, 50, 10), "top"),
        (Box(80, 0, 90, 10), "upper right"),
        (Box(0, 25, 90, 35), "centre"),
        (Box(80, 20, 90, 22), "right"),
        (Box(0, 55, 9, 60), "lower left"),
        (Box(85, 55, 90, 60), "lower right"),
        (Box(44, 59, 46, 60), "bottom"),
        (Box(0, 30, 2, 31), "left"),
    ],
)
def test_the_place_is_the_cell_of_the_boxs_middle(box: Box, place: str):
    assert cell_of(box, 90, 60) == place


def test_a_vocabulary_of_one_defect_is_enough(tmp_path):
    path = tmp_path / "words.toml"
    path.write_text(
        '[risks.r]\nfails = "fail"\nworks = "last"\n[defects.chip]\nterm = "chip"\nrisk = "r"\n'
        'consequences = ["makes it weak"]\nappearance = "a bite"\n[objects]\n'
        '[default]\nmaterial = "metal"\nfunction = "does its work"\ntypical = ["chip"]\n'
    )
    small = load_vocabulary(str(path))
    for index in range(60):
        image = annotated(index, random.Random(index), "bracket", ["chip", "nick"][: 1 + index % 3 // 2])
        for record in make_records(image, small, pair_types=PAIR_TYPES, records=3, index=index, seed=0):
            assert len(record.questions) == 5


def test_a_part_without_a_category_is_called_a_part(vocabulary: Vocabulary):
    image = dataclasses.replace(annotated(0, random.Random(0), "washer", ["dent"]), category="")
    record = make_records(image, vocabulary, pair_types=PAIR_TYPES[:1], records=1, index=0, seed=0)[0]
    assert INSPECTION_QUESTION in {question.text for question in record.questions}
