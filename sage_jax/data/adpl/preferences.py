"""AD-PL-style records from annotations: questions of three kinds, each with four ranked and scored answers."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from sage_jax.data.adpl import wording
from sage_jax.data.adpl.facts import DefectWords, ObjectWords, Risk, Vocabulary, with_article
from sage_jax.data.adpl.wording import COMPARISON, INSPECTION_QUESTION, PLACES, SUBJECT, Claim, Finding, Topic
from sage_jax.data.images import open_image
from sage_jax.data.records import AnnotatedImage, Answer, Box, Question, Record

__all__ = ["INSPECTION_QUESTION", "PLACES", "VERSION", "make_records", "cell_of"]

VERSION: Final = 5
"""Raised whenever the records made of the same annotations change, so that stored data sets are built again."""

QUESTIONS_PER_RECORD: Final = 5
MAX_FINDINGS: Final = 2

ASKED_PRESENT_RATE: Final = 0.85
"""Share of a defective part's test questions about kinds and risks that ask for what is there.

A good part answers "does it show a scratch?" with no, always. Most of the defective part's questions therefore ask for
what is there, which keeps each wording's share of yes near one half. Training may ask for it less often
(`data.asked_present_rate`): a model that is seldom asked for what is not there says yes wherever there is any defect.
"""
NUM_ABNORMAL_YES: Final = 4
"""Questions of a record to which "yes" means a defect; the rest ask for its absence, as a line's own checklists do."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """One image's truth in words: its findings, largest first, and what parts of its category may show.

    Attributes:
      words: Of the category.
      findings: Defects and their cells.
      vocabulary: Of the data set.
      candidates: Types of defect that questions may name, with how often each is asked for. They do not depend on the
        image: else the question's text would tell what the image shows.
      asked_present_rate: Share of questions about kinds and risks that ask for what is there.
    """

    words: ObjectWords
    findings: tuple[Finding, ...]
    vocabulary: Vocabulary
    candidates: tuple[tuple[DefectWords, int], ...]
    asked_present_rate: float

    @functools.cached_property
    def present(self) -> list[DefectWords]:
        return list({words.name: words for words, _ in self.findings if words is not None}.values())

    @functools.cached_property
    def absent(self) -> list[DefectWords]:
        """Types that the part could show and does not; none where a generic label leaves the type open."""
        if any(words.generic for words in self.present):
            return []
        names = {words.term for words in self.present}
        return [words for words, _ in self.candidates if words.term not in names]

    def draw(self, pool: Sequence[DefectWords], rng: random.Random) -> DefectWords:
        """One of these types, as often as it occurs."""
        often = {words.term: count for words, count in self.candidates}
        return rng.choices(pool, [often.get(words.term, 1) for words in pool])[0]


Kinds = Mapping[str, Mapping[str, int]]
"""Category -> type of defect -> images of the data set that show it, its splits together."""


def _candidates(
    words: ObjectWords, vocabulary: Vocabulary, counts: Mapping[str, int]
) -> tuple[tuple[DefectWords, int], ...]:
    """Types that questions about a category may name, by term, with their counts.

    The types of the data set; where they are fewer than two, those that the vocabulary calls typical too, of the
    category or else in general, as often together as the data set's.
    """
    found: dict[str, tuple[DefectWords, int]] = {}
    for name, count in counts.items():
        defect = vocabulary.defect_of(name)
        if not defect.generic:
            found[defect.term] = (defect, count + found.get(defect.term, (defect, 0))[1])
    if len(found) < 2:
        typical = [each for each in words.typical if not each.generic]
        typical = typical or [each for each in vocabulary.default.typical if not each.generic] or list(words.typical)
        more = [each for each in typical if each.term not in found]
        share = max(1, sum(count for _, count in found.values()) // max(1, len(more)))
        found |= {each.term: (each, share) for each in more}
    return tuple(found.values())


def make_records(
    image: AnnotatedImage,
    vocabulary: Vocabulary,
    *,
    pair_types: Sequence[str],
    records: int,
    index: int,
    seed: int,
    asked_present_rate: float = ASKED_PRESENT_RATE,
    kinds: Kinds | None = None,
) -> list[Record]:
    """Records of one image, each with 5 questions of one kind and 4 answers a question, best first.

    Answers get worse as AD-PL's do: the right verdict with defect and place; the right verdict but vague; the right
    verdict with a wrong defect or place; the wrong verdict. Which adjacent pair is closest in score varies.
    The same arguments give the same records.

    Args:
      image: The image and its annotations.
      vocabulary: Words of objects and defects.
      pair_types: Kinds of question, taken in turn.
      records: Records made of this image, in the order of their kinds.
      index: Position of the image in its data set; its first kind is `pair_types[index % len(pair_types)]`.
      seed: Seed of wording and choice.
      asked_present_rate: Share of a defective part's questions about kinds and risks that ask for what is there.
      kinds: What the data set's images show; None = the vocabulary alone says what they may.
    """
    words = vocabulary.object_of(image.category)
    candidates = _candidates(words, vocabulary, (kinds or {}).get(image.category, {}))
    part = _Part(words, _findings(image, vocabulary), vocabulary, candidates, asked_present_rate)
    facts = vocabulary.facts_for(image.category)
    made: list[Record] = []
    for turn in range(records):
        kind = pair_types[(index + turn) % len(pair_types)]
        letter, topics_of = _KINDS[kind]
        rng = random.Random(f"{seed}/{image.image_id}/{letter}")
        topics = topics_of(part, rng)
        rng.shuffle(topics)
        made.append(
            Record(
                record_id=f"{image.image_id}/{letter}",
                image_id=image.image_id,
                test_image=image.test_image,
                reference_image=image.reference_image,
                category=image.category,
                pair_type=kind,
                facts=facts,
                questions=tuple(_question(topic, part, rng) for topic in topics),
                descriptions=_descriptions(part, rng),
                anomalous=bool(image.defects),
                defects=image.defects,
                mask=image.mask,
                test_path=image.test_path,
                reference_path=image.reference_path,
                further_references=image.further_references,
            )
        )
    return made


def cell_of(box: Box, width: int, height: int) -> str:
    """The cell of the 3x3 grid that holds the box's middle: "upper left" ... "lower right", "centre"."""
    column = min(2, max(0, 3 * (box.left + box.right) // (2 * width)))
    row = min(2, max(0, 3 * (box.top + box.bottom) // (2 * height)))
    return PLACES[3 * row + column]


def _findings(image: AnnotatedImage, vocabulary: Vocabulary) -> tuple[Finding, ...]:
    if not image.defects:
        return ()
    with open_image(io.BytesIO(image.test_image)) as header:
        width, height = header.size
    by_area = sorted(image.defects, key=lambda item: -_area(item.box))
    found = (
        (vocabulary.defect_of(item.type), cell_of(item.box, width, height) if item.placed else "") for item in by_area
    )
    return tuple(dict.fromkeys(found))


def _area(box: Box) -> int:
    return (box.right - box.left) * (box.bottom - box.top)


def _comparison_topics(part: _Part, rng: random.Random) -> list[Topic]:
    abnormal = [INSPECTION_QUESTION, *rng.sample(COMPARISON[True][1:], NUM_ABNORMAL_YES - 1)]
    normal = rng.sample(COMPARISON[False], QUESTIONS_PER_RECORD - len(abnormal))
    return [
        Topic(text.format(object=SUBJECT), yes, None)
        for yes, texts in ((True, abnormal), (False, normal))
        for text in texts
    ]


def _polarities(rng: random.Random) -> list[bool]:
    """Polarities of a record's questions, in any order."""
    polarities = [True] * NUM_ABNORMAL_YES + [False] * (QUESTIONS_PER_RECORD - NUM_ABNORMAL_YES)
    rng.shuffle(polarities)
    return polarities


def _identification_topics(part: _Part, rng: random.Random) -> list[Topic]:
    topics: list[Topic] = []
    used: set[str] = set()
    for abnormal_yes in _polarities(rng):
        name_present = bool(part.present) and (not part.absent or rng.random() < part.asked_present_rate)
        asked = part.draw(part.present if name_present or not part.absent else part.absent, rng)
        text = _fresh(wording.SHOWS[abnormal_yes], used, rng, object=SUBJECT, noun=asked.noun, plural=asked.plural)
        topics.append(Topic(text, abnormal_yes, asked))
    return topics


def _diagnosis_topics(part: _Part, rng: random.Random) -> list[Topic]:
    topics: list[Topic] = []
    used: set[str] = set()
    shown = _risks(part.present)
    others = [words for words, _ in part.candidates if words.risk not in shown]
    for abnormal_yes in _polarities(rng):
        ask_shown = bool(part.present) and (not others or rng.random() < part.asked_present_rate)
        pool = part.present if ask_shown else others or [words for words, _ in part.candidates]
        risk = part.draw(pool, rng).risk
        text = _fresh(wording.CONSEQUENCE[abnormal_yes], used, rng, object=SUBJECT, fails=risk.fails, works=risk.works)
        topics.append(Topic(text, abnormal_yes, risk=risk))
    return topics


def _risks(defects: Sequence[DefectWords]) -> list[Risk]:
    return list({words.risk.name: words.risk for words in defects}.values())


def _fresh(texts: Sequence[str], used: set[str], rng: random.Random, **words: str) -> str:
    """One of the wordings, filled in, that the record does not hold yet where there is one left."""
    filled = [text.format(**words) for text in texts]
    text = rng.choice([item for item in filled if item not in used] or filled)
    used.add(text)
    return text


_KINDS: Final[dict[str, tuple[str, Callable[[_Part, random.Random], list[Topic]]]]] = {
    "standard comparison": ("c", _comparison_topics),
    "defect identification": ("i", _identification_topics),
    "defect diagnosis": ("d", _diagnosis_topics),
}


def _focus(topic: Topic, part: _Part) -> tuple[Finding, ...]:
    """The findings that the best answer names: the largest, or the one that the question concerns."""
    if topic.asked is None and topic.risk is None:
        return part.findings[:MAX_FINDINGS]
    concerned = [finding for finding in part.findings if finding[0] is not None and topic.concerns(finding[0])]
    return tuple((concerned or list(part.findings))[:1])


def _question(topic: Topic, part: _Part, rng: random.Random) -> Question:
    abnormal = any(topic.concerns(words) for words in part.present)
    verdict = topic.abnormal_yes == abnormal
    best = Claim(verdict, "defective", _focus(topic, part)) if part.findings else Claim(verdict, "good")
    names = {words.term for words in part.present}
    wrong = [words for words, _ in part.candidates if words.term not in names] or list(part.words.typical)
    if topic.asked is not None and len(wrong) > 1:
        wrong = [words for words in wrong if words.term != topic.asked.term]
    other = rng.choice(wrong)
    if part.findings:
        ranked = _defective_claims(best, topic, abnormal, other, rng)
    else:
        ranked = _good_claims(best, topic, other, rng)
    claims = (best, *_choose(best, ranked, rng))
    texts = [wording.word_claim(claim, topic, SUBJECT, rng) for claim in claims]
    answers = (Answer(text, wording.score_of(claim, best)) for text, claim in zip(texts, claims, strict=True))
    return Question(topic.text, tuple(answers))


_Ranked = tuple[list[Claim], list[Claim], list[Claim]]


def _defective_claims(best: Claim, topic: Topic, abnormal: bool, other: DefectWords, rng: random.Random) -> _Ranked:
    """Claims for ranks 2 to 4 on a defective part: vague, wrong in defect or place, wrong verdict."""
    findings, verdict = best.findings, best.verdict
    apart = _far_from(best.places, rng)
    unplaced: tuple[Finding, ...] = tuple((words, "") for words, _ in findings)
    unnamed: tuple[Finding, ...] = tuple((None, place) for _, place in findings)
    swapped: tuple[Finding, ...] = ((other, findings[0][1]), *findings[1:])
    vague = [Claim(verdict, "defective", item) for item in (unplaced, unnamed, ())]
    vague.append(Claim(verdict, ""))
    moved: tuple[Finding, ...] = ((findings[0][0], apart),)
    both: tuple[Finding, ...] = ((other, apart),)
    renamed: tuple[Finding, ...] = ((other, ""),)
    named = [swapped, moved, both, renamed]
    if not best.places:
        # Nobody could learn where a defect is not; of a defect of unknown kind and place nothing else can be wrong.
        named = [renamed] if best.terms else [((other, rng.choice(PLACES)),)]
    wrong = [Claim(verdict, "defective", item) for item in named]
    denied = not verdict
    if abnormal:
        opposite = [
            Claim(denied, "good"),
            Claim(denied, "good", fine_place=findings[0][1]),
            Claim(denied, ""),
            Claim(denied, "defective", findings),
        ]
        if topic.asked is not None:
            opposite[-1] = Claim(denied, "defective", ((other, findings[0][1]),))
    else:
        asked = topic.asked if topic.asked is not None else other
        places = (findings[0][1], apart, "")
        opposite = [Claim(denied, "defective", ((asked, place),)) for place in places]
        opposite.append(Claim(denied, ""))
    return vague, wrong, opposite


def _far_from(places: Collection[str], rng: random.Random) -> str:
    """A cell two steps or more from all of these, or the farthest there is; "" of none, where no place is known."""
    if not places:
        return ""
    nearest = {place: min(wording.steps_apart(place, true) for true in places) for place in PLACES}
    return rng.choice([place for place in PLACES if nearest[place] >= 2] or [max(PLACES, key=nearest.__getitem__)])


def _good_claims(best: Claim, topic: Topic, other: DefectWords, rng: random.Random) -> _Ranked:
    """Claims for ranks 2 to 4 on a good part: vague, a finding that is not there, wrong verdict."""
    verdict, place = best.verdict, rng.choice(PLACES)
    vague = [Claim(verdict, ""), Claim(verdict, ""), Claim(verdict, "good", fine_place=place)]
    found: tuple[tuple[Finding, ...], ...] = (((other, place),), ((other, ""),), ((None, place),), ())
    wrong = [Claim(verdict, "defective", item) for item in found]
    seen = topic.asked if topic.asked is not None else other
    opposite = [Claim(not verdict, "defective", ((seen, place),)), Claim(not verdict, "defective", ((seen, ""),))]
    opposite += [Claim(not verdict, ""), Claim(not verdict, "good")]
    return vague, wrong, opposite


def _choose(best: Claim, ranked: _Ranked, rng: random.Random) -> tuple[Claim, Claim, Claim]:
    """One claim a rank with strictly falling scores; which adjacent pair is closest is drawn first."""
    # In 720ths of a point every score is a whole number, so that equal gaps compare as equal.
    second, third, fourth = [[(claim, round(720 * wording.score_of(claim, best))) for claim in rank] for rank in ranked]
    closest: dict[int, list[tuple[Claim, Claim, Claim]]] = {}
    tied: list[tuple[Claim, Claim, Claim]] = []
    for (vague, a), (wrong, b), (opposite, c) in itertools.product(second, third, fourth):
        gaps = (3600 - a, a - b, b - c)
        smallest = min(gaps)
        if smallest <= 0:
            continue
        group = closest.setdefault(gaps.index(smallest), []) if gaps.count(smallest) == 1 else tied
        group.append((vague, wrong, opposite))
    # With a vocabulary of a single defect every choice may have two gaps of the same size.
    return rng.choice(closest[rng.choice(sorted(closest))] if closest else tied)


def _descriptions(part: _Part, rng: random.Random) -> tuple[Question, ...]:
    """What the picture shows, one answer a question, in words that no inspection question uses."""
    name = part.words.name
    described = part.findings[:MAX_FINDINGS]
    others = [other for other in part.vocabulary.objects if other != name]
    claimed = name if rng.random() < 0.5 or not others else rng.choice(others)
    same = "Yes. It is" if claimed == name else "No. It is"
    rows = [
        ("What does the picture show?", wording.describe(name, part.words.material, described, rng)),
        ("Which part is this?", f"It is {with_article(name)}."),
        (f"Is this {with_article(claimed)}?", f"{same} {with_article(name)}."),
    ]
    if described:
        words, place = described[0]
        appearance = words.appearance if words is not None else ""
        if place:
            rows.append(("Where is the mark?", f"It is at the {place}."))
        rows.append(("What mark is it?", f"It is {words.noun if words else 'a mark'}, {appearance}."))
    else:
        rows.append(("Where is the mark?", "There is no mark."))
        rows.append(("What mark is it?", "It has no mark."))
    return tuple(Question(question, (Answer(answer),)) for question, answer in rows)
