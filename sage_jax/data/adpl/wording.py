"""What an answer claims, what that is worth against the best answer, and how questions and claims are worded."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import Final, Literal

from sage_jax.data.adpl.facts import DefectWords, Risk, sentence, with_article
from sage_jax.verdict import Language

# What questions and answers call the object. A category's own name would be a word that a model trained on other
# categories has never seen, in the very sentence that it has to understand; the facts give the name.
SUBJECT: Final = "part"
INSPECTION_QUESTION: Final = f"Is there a defect in this {SUBJECT}?"
INSPECTION_QUESTIONS: Final[dict[Language, str]] = {"en": INSPECTION_QUESTION, "zh": "这个零件是否有缺陷？"}

INSPECTION_OPENINGS: Final[dict[bool, tuple[str, ...]]] = {
    True: ("Yes. There is", f"Yes. The {SUBJECT} has", "Yes. There is a defect"),
    False: (f"No. The {SUBJECT} is intact", "No. There is no defect"),
}
"""How answers to the inspection question can begin, by verdict; the last ones say all that the verdict does."""

# Reading order: row by row from the top, so that cell i is row i // 3, column i % 3.
PLACES: Final = (
    "upper left",
    "top",
    "upper right",
    "left",
    "centre",
    "right",
    "lower left",
    "bottom",
    "lower right",
)

# Question wordings. True: "yes" says that the part has what is asked about; False: "yes" says that it has not.
COMPARISON: Final[dict[bool, tuple[str, ...]]] = {
    True: (
        INSPECTION_QUESTION,
        "Does this {object} differ from a good one?",
        "Is anything wrong with this {object}?",
        "Should this {object} be rejected?",
    ),
    False: (
        "Is this {object} free of defects?",
        "Is this {object} in good condition?",
    ),
}
SHOWS: Final[dict[bool, tuple[str, ...]]] = {
    True: ("Does this {object} show {noun}?", "Is there {noun} on this {object}?", "Can you see {noun} here?"),
    False: ("Is this {object} free of {plural}?",),
}
CONSEQUENCE: Final[dict[bool, tuple[str, ...]]] = {
    True: (
        "Could this {object} {fails} because of a defect?",
        "Will a defect make this {object} {fails}?",
        "Must we fear that this {object} will {fails}?",
    ),
    False: (
        "Can we trust this {object} to {works}?",
        "Is this {object} fit to {works}?",
    ),
}

# One finding: the words of the defect, or None for "a defect"; its place, or "".
Finding = tuple[DefectWords | None, str]
State = Literal["defective", "good", ""]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What an answer says: its verdict, the state of the part ("" = not said), and its findings."""

    verdict: bool
    state: State
    findings: tuple[Finding, ...] = ()
    fine_place: str = ""

    @functools.cached_property
    def terms(self) -> frozenset[str]:
        return frozenset(words.term for words, _ in self.findings if words is not None and not words.generic)

    @functools.cached_property
    def places(self) -> frozenset[str]:
        named = {place for _, place in self.findings if place}
        return frozenset(named | {self.fine_place} if self.fine_place else named)


@dataclasses.dataclass(frozen=True)
class Topic:
    """What a question asks about: `abnormal_yes` is its polarity, and at most one of defect and risk is its object."""

    text: str
    abnormal_yes: bool
    asked: DefectWords | None = None
    risk: Risk | None = None

    def concerns(self, defect: DefectWords) -> bool:
        """Whether a part with this defect has what the question asks about."""
        if self.risk is not None:
            return defect.risk == self.risk
        return self.asked is None or defect.term == self.asked.term


def steps_apart(place: str, other: str) -> int:
    """Steps between two cells of the grid, across and down."""
    row, column = divmod(PLACES.index(place), 3)
    other_row, other_column = divmod(PLACES.index(other), 3)
    return abs(row - other_row) + abs(column - other_column)


_FALSE: Final = -0.75
"""What a false statement takes away; a true one adds 1."""


def score_of(claim: Claim, best: Claim) -> float:
    """Score of an answer, 1 (worst) to 5 (best): what it says that is true, less what it says that is false.

        right verdict   3 + kind + place       wrong verdict   1 + 1/4 for each of the two that is not false

    Kind and place are 1 where they are as in the best answer, 0 where the answer leaves them open, and `_FALSE` where
    it says something else; several kinds count by their share in common, places by their steps apart. It follows the
    experts' order of AD-PL (an answer that says less stands above one that says what is not so), not the tables of the
    rubric judge that evaluates (metrics/mle.py): what teaches is not what examines.
    """
    kind, place = _kind_part(claim, best), _place_part(claim, best)
    if claim.verdict != best.verdict:
        return 1.0 + 0.25 * ((kind >= 0.0) + (place >= 0.0))
    return 3.0 + kind + place


def _kind_part(claim: Claim, best: Claim) -> float:
    if not claim.state:
        return 0.0
    if claim.state != best.state:
        return _FALSE
    if not claim.terms and best.terms:
        return 0.0
    if not claim.terms | best.terms:
        return 1.0
    common = len(claim.terms & best.terms) / len(claim.terms | best.terms)
    return common if common else _FALSE


def _place_part(claim: Claim, best: Claim) -> float:
    if claim.state == best.state == "good":
        return 0.5 if claim.fine_place else 1.0
    if not claim.places:
        return 1.0 if claim.state == best.state and not best.places else 0.0
    if claim.state != best.state or not best.places:
        return _FALSE
    each = [min(steps_apart(place, other) for other in best.places) for place in claim.places]
    each += [min(steps_apart(place, other) for other in claim.places) for place in best.places]
    return sum((1.0, 0.5, -0.25, _FALSE, _FALSE)[steps] for steps in each) / len(each)


def word_claim(claim: Claim, topic: Topic, name: str, rng: random.Random) -> str:
    """The claim as an answer of one or two short sentences that begins with "Yes." or "No."."""
    verdict = "Yes." if claim.verdict else "No."
    if claim.state == "good":
        reason = _good(claim, name, rng)
    elif claim.state == "defective":
        reason = _defective(claim, topic, name, rng)
    else:
        reason = _silent(topic, claim.verdict == topic.abnormal_yes, rng)
    return f"{verdict} {reason}".rstrip()


def _good(claim: Claim, name: str, rng: random.Random) -> str:
    if claim.fine_place:
        return rng.choice(
            (f"The {claim.fine_place} looks normal.", f"It is in good condition at the {claim.fine_place}.")
        )
    return rng.choice(
        (
            f"The {name} matches the good part.",
            f"The {name} is intact and shows no defect.",
            "It looks just like the good part.",
            "It matches the good part everywhere.",
            f"There is no defect on the {name}.",
        )
    )


def _silent(topic: Topic, abnormal: bool, rng: random.Random) -> str:
    remarks = ["", "It seems so.", "That is how it looks.", "I am sure of it."]
    if topic.asked is not None and not topic.asked.generic and not abnormal:
        remarks.append(f"I see no {topic.asked.term}.")
    return rng.choice(remarks)


def _defective(claim: Claim, topic: Topic, name: str, rng: random.Random) -> str:
    abnormal = claim.verdict == topic.abnormal_yes
    listed = list_findings(claim.findings, rng)
    if not listed:
        return _vague(topic, abnormal, name, rng)
    if topic.risk is not None:
        return _effect(claim, topic.risk, abnormal, rng)
    if abnormal:
        first = claim.findings[0][0]
        forms = [f"There is {listed}.", f"The {name} has {listed}."]
        if len(claim.findings) == 1:
            forms.append(f"It shows {listed}, unlike the good part.")
        if first is not None and len(claim.findings) == 1:
            forms.append(f"There is {listed}. It {rng.choice(first.consequences)}.")
        return rng.choice(forms)
    if topic.asked is None:
        forms = [f"There is only {listed}."]
        if len(claim.findings) == 1:
            forms.append(f"It has {listed}, but that does no harm.")
        return rng.choice(forms)
    if topic.asked.term in claim.terms:
        return f"There is only {listed}."
    if not claim.terms:
        return f"There is {listed}, but of another kind."
    return rng.choice((f"There is {listed} instead.", f"The defect is {listed}, not {topic.asked.noun}."))


def _vague(topic: Topic, abnormal: bool, name: str, rng: random.Random) -> str:
    if topic.risk is not None:
        return rng.choice(_VAGUE_EFFECT[abnormal])
    if abnormal:
        return rng.choice((f"The {name} is damaged.", "There is a defect.", "It differs from the good part."))
    if topic.asked is None:
        return rng.choice(("There is a flaw, but it does no harm.", "It has a flaw that does no harm."))
    return rng.choice(_VAGUE_KIND)


_VAGUE_EFFECT: Final[dict[bool, tuple[str, ...]]] = {
    True: ("The damage may lead to that.", "It has a flaw that may do this."),
    False: ("The damage does no harm of this kind.", "It has a flaw, but that does no harm here."),
}
_VAGUE_KIND: Final = ("The damage is of another kind.", "It has another kind of flaw.")


def _effect(claim: Claim, risk: Risk, abnormal: bool, rng: random.Random) -> str:
    subject = list_findings(claim.findings, rng, definite=True)
    words = claim.findings[0][0]
    if abnormal:
        return sentence(f"{subject} {rng.choice(('may make it', 'is likely to make it'))} {risk.fails}")
    if words is None or words.risk == risk or len(claim.findings) > 1:
        return sentence(f"{subject} does no harm of this kind")
    return sentence(f"{subject} {rng.choice(('only makes it', 'will just make it'))} {words.risk.fails}")


def list_findings(findings: Sequence[Finding], rng: random.Random, *, definite: bool = False) -> str:
    """The findings as one noun phrase: "a scratch at the top and a dent at the left"; "" where none says anything."""
    if all(words is None and not place for words, place in findings):
        return ""
    phrases: list[str] = []
    for words, place in findings:
        if words is None:
            noun = rng.choice(
                ("the damage", "the defect", "the flaw") if definite else ("a defect", "a flaw", "damage")
            )
        else:
            noun = f"the {words.term}" if definite else words.noun
        phrases.append(f"{noun} at the {place}" if place else noun)
    return " and ".join(dict.fromkeys(phrases))


def describe(name: str, material: str, findings: Sequence[Finding], rng: random.Random) -> str:
    """What the picture shows: "A washer made of steel with a scratch at the top."."""
    listed = list_findings(findings, rng)
    head = f"{with_article(name)} made of {material}"
    return sentence(f"{head} with {listed}") if listed else sentence(f"{head} without any mark")
