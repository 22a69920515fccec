"""MLE by an offline rubric judge: category, location and logic of an answer against the reference answer.

| accuracy | when |
|---|---|
| 5 | right; the same defects, or none on either side and the same state |
| 4 | right; some of the defects in common; or none on either side, and one side leaves the state open |
| 3 | right; no defect where the reference names one; or none on either side, and opposite states; never more than
this for a reason that calls the part both good and defective |
| 2 | right; none of the defects in common, or a defect where the reference names none |
| 1 | the other verdict |

| localization | when |
|---|---|
| 5 | both name a place: the same |
| 4 | both: cells that share a side |
| 2 | both: cells two steps apart; or other places, where `places` are not nine |
| 1 | both: cells three or four steps apart |
| 1 | both name a place, and one calls the part good, the other does not, or the answer calls it both |
| 3 | only the reference names a place; or neither does and the verdict is the other |
| 5 | neither names a place, right |
| 3 | only the answer names a place, right, and the state is the same |
| 1 | only the answer names a place, otherwise |

Where one side names several places, each place takes the mark of its nearest on the other side, and localization is
the mean over both sides' places.

| logic | when |
|---|---|
| 5 | right, and the reason calls the part what the reference calls it |
| 2 | the same, but the verdict rests on what is not there: other defects, at no place that the reference names |
| 3 | right, and only one of them says whether the part is good |
| 2 | right, but the reason says the opposite of the reference's: it contradicts its own verdict |
| 2 | right, but the reason calls the part both good and defective |
| 2 | the other verdict, for a reason of its own |
| 1 | the other verdict, for the reference's reason, or for one that says both: it contradicts itself |

Whether "no" goes with a defect depends on the question ("Is it free of defects?"), which is why verdict and reason
are compared with the reference's pair instead of with each other.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from sage_jax.verdict import split_verdict

State = Literal["defective", "good", "both", ""]
GRID_CELLS: Final = 9

_NO_SYNONYMS: Final[Mapping[str, str]] = {}
# "unlike the good part" calls the reference good, not the part that is looked at.
_REFERENCE: Final = re.compile(
    r"\b(the |(?:from|to|than|with|unlike|like|match|matches) a )good (?:part|one|reference|sample|product)\b"
)
_DEFECTIVE_WORD: Final = re.compile(
    r"\b(?:defects?|defective|flaws?|flawed|damaged?|faults?|faulty|anomal(?:y|ies|ous)|abnormal|differs?|wrong)\b"
)
_GOOD_WORD: Final = re.compile(r"\b(?:good|intact|match(?:es)?|normal|fine|sound|flawless|undamaged|just like|same)\b")
_NEGATION: Final = re.compile(
    r"\b(?:no|not|never|nor|neither|none|nothing|without|cannot|isn't|doesn't|free of|free from|absence of|rather than"
    r"|other than)\b"
)
# "The rest is good" and "it looks good, but ..." take nothing back.
_LIMITED: Final = re.compile(
    r"\b(?:rest|remaining|remainder|other|others|otherwise|else|elsewhere|but|except|apart|although|though|however|only"
    r"|while|first)\b"
)
_SENTENCE_END: Final = re.compile(r"[.;!?]")
_CLAUSE_END: Final = re.compile(r"[.,;:!?]|\b(?:but|and|instead)\b")


@dataclasses.dataclass(frozen=True)
class MleScore:
    """Marks of one answer, 1 (worst) to 5 (best), under the names of the released evaluator, and their mean."""

    accuracy: float
    localization: float
    logic: float

    @property
    def average(self) -> float:
        return (self.accuracy + self.localization + self.logic) / 3.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """What an answer's text was found to say.

    Attributes:
      verdict: Yes or true, no or false; None where the answer begins with neither.
      state: Whether the reason calls the part defective, good, or both, which is a contradiction; "" where neither.
      terms: Defects that the reason affirms.
      places: Places that the reason names and does not deny.
      clauses: Defects and places of each clause that names any, in the order of the text.
    """

    verdict: bool | None
    state: State
    terms: frozenset[str]
    places: frozenset[str]
    clauses: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()


def judge(
    answer: str,
    reference_answer: str,
    *,
    defect_terms: Sequence[str],
    places: Sequence[str],
    synonyms: Mapping[str, str] = _NO_SYNONYMS,
) -> MleScore:
    """Marks of an answer against the reference answer, by fixed rules: the same texts always get the same marks.

    An empty answer, or one that does not begin with yes, no, true or false, gets 1 1 1. The texts are read as `read`
    describes. "Right" means: the same verdict as the reference.

    The tables of the marks are at the head of this file.

    Args:
      answer: What the model said.
      reference_answer: The best answer, beginning with its verdict.
      defect_terms: Names of defects to look for, singular.
      places: Names of places. Nine of them are the cells of a 3x3 grid, row by row.
      synonyms: Other names -> the term they stand for.

    Raises:
      ValueError: The reference answer does not begin with a verdict.
    """
    truth = read(reference_answer, defect_terms=defect_terms, places=places, synonyms=synonyms)
    if truth.verdict is None:
        raise ValueError(f"reference answer {reference_answer!r}: must begin with yes, no, true or false")
    found = read(answer, defect_terms=defect_terms, places=places, synonyms=synonyms)
    if found.verdict is None:
        return MleScore(1.0, 1.0, 1.0)
    if truth.state == "both":  # an expert's answer is the measure: beside it, to say both contradicts nothing
        truth, found = (
            dataclasses.replace(each, state="defective" if each.state == "both" else each.state)
            for each in (truth, found)
        )
    return MleScore(_accuracy(found, truth), _localization(found, truth, places), _logic(found, truth))


def read(
    answer: str, *, defect_terms: Sequence[str], places: Sequence[str], synonyms: Mapping[str, str] = _NO_SYNONYMS
) -> Reading:
    """Verdict, state, defects and places that an answer states.

    The first word is the verdict, the rest the reason. Names are found as whole words, longest first ("pin-hole"
    before "hole", "upper left" before "left"), in singular or plural, with hyphens read as spaces; a synonym counts
    as its term. What follows a negation ("no", "not", "without", "free of" ...) up to the end of its clause is denied.
    An affirmed defect, a word such as "defect" or "damaged", or a denied word such as "matches" makes the part
    defective; else an affirmed "matches", "good", "intact" ..., or a denied "defect", makes it good; denying one
    named defect says nothing about the part. A reason that does the first, and elsewhere calls the part good without
    a limit (a place, "the rest", "but" ...), says both.

    Example: "No. The defect is a dent at the top, not a scratch." -> False, defective, {dent}, {top}
    """
    text = answer.lower().replace("’", "'")
    verdict, reason = split_verdict(text)
    if verdict is None:
        return Reading(None, "", frozenset(), frozenset())
    reason = _REFERENCE.sub(r"\1", reason.replace("-", " "))
    pattern, names = _finder(tuple(defect_terms), tuple(places), tuple(sorted(synonyms.items())))
    terms: set[str] = set()
    where: set[str] = set()
    signs: set[State] = set()
    naming: list[tuple[frozenset[str], frozenset[str]]] = []
    called_good = False
    for sentence in _SENTENCE_END.split(reason):
        clauses = [_read_clause(clause, pattern, names) for clause in _CLAUSE_END.split(sentence)]
        for clause in clauses:
            terms |= clause.terms
            where |= clause.places
            signs |= clause.signs
            if clause.terms or clause.places:
                naming.append((frozenset(clause.terms), frozenset(clause.places)))
        whole = [clause for clause in clauses if not (clause.terms or clause.places or "defective" in clause.signs)]
        if _LIMITED.search(sentence) is None:
            called_good |= any(clause.affirmed_good for clause in whole)
            called_good |= len(whole) == len(clauses) and any("good" in clause.signs for clause in whole)
    state: State = "defective" if terms or "defective" in signs else "good" if signs else ""
    if state == "defective" and called_good:
        state = "both"
    return Reading(verdict, state, frozenset(terms), frozenset(where), tuple(naming))


@dataclasses.dataclass(frozen=True)
class _Clause:
    """What one clause says: names it affirms, what it calls the part, and whether by a word such as "intact"."""

    terms: set[str]
    places: set[str]
    signs: set[State]
    affirmed_good: bool


def _read_clause(clause: str, pattern: re.Pattern[str] | None, names: Mapping[str, tuple[str, str]]) -> _Clause:
    found = _Clause(set(), set(), set(), False)
    negation = _NEGATION.search(clause)
    denied_from = negation.end() if negation else len(clause)
    for match in pattern.finditer(clause) if pattern else ():
        if match.start() < denied_from:
            kind, name = names[match.group(1)]
            (found.terms if kind == "term" else found.places).add(name)
    # Words inside a name ("print fault") belong to the name.
    rest = pattern.sub(lambda match: " " * len(match.group()), clause) if pattern else clause
    for word in _DEFECTIVE_WORD.finditer(rest):
        found.signs.add("defective" if word.start() < denied_from else "good")
    good = [word.start() < denied_from for word in _GOOD_WORD.finditer(rest)]
    found.signs.update("good" if affirmed else "defective" for affirmed in good)
    if negation and negation.group() == "nothing" and _DEFECTIVE_WORD.search(rest, denied_from) is None:
        found.signs.add("good")
    return dataclasses.replace(found, affirmed_good=any(good))


@functools.lru_cache(maxsize=16)
def _finder(
    defect_terms: tuple[str, ...], places: tuple[str, ...], synonyms: tuple[tuple[str, str], ...]
) -> tuple[re.Pattern[str] | None, dict[str, tuple[str, str]]]:
    """One pattern for all names, longest first, and what each spelling stands for."""
    names: dict[str, tuple[str, str]] = {}
    pairs = [*((place, "place", place) for place in places), *((term, "term", term) for term in defect_terms)]
    for spelled, kind, name in (*pairs, *((other, "term", term) for other, term in synonyms)):
        plain = " ".join(spelled.lower().replace("-", " ").split())
        forms = (plain,) if kind == "place" else (plain, plain + "s", plain + "es", re.sub("y$", "ies", plain))
        for form in forms:
            names.setdefault(form, (kind, name))
    if not names:
        return None, names
    ordered = sorted(names, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, ordered)) + r")\b"), names


def _accuracy(found: Reading, truth: Reading) -> float:
    if found.verdict != truth.verdict:
        return 1.0
    if found.state == "both":
        return min(3.0, _accuracy(dataclasses.replace(found, state="defective"), truth))
    if not found.terms and not truth.terms:
        return 5.0 if found.state == truth.state else 4.0 if "" in (found.state, truth.state) else 3.0
    if found.terms == truth.terms:
        return 5.0
    if not found.terms:
        return 3.0
    return 4.0 if found.terms & truth.terms else 2.0


def _localization(found: Reading, truth: Reading, places: Sequence[str]) -> float:
    right, same_state = found.verdict == truth.verdict, found.state == truth.state
    if found.places and truth.places:
        if not same_state:
            return 1.0
        marks = [max(_near(a, b, places) for b in truth.places) for a in found.places]
        marks += [max(_near(a, b, places) for a in found.places) for b in truth.places]
        return sum(marks) / len(marks)
    if found.places:
        return 3.0 if right and same_state else 1.0
    return 5.0 if right and not truth.places else 3.0


def _near(place: str, other: str, places: Sequence[str]) -> float:
    if place == other or len(places) != GRID_CELLS:
        return 5.0 if place == other else 2.0
    row, column = divmod(places.index(place), 3)
    other_row, other_column = divmod(places.index(other), 3)
    steps = abs(row - other_row) + abs(column - other_column)
    return (5.0, 4.0, 2.0, 1.0, 1.0)[steps]


def _logic(found: Reading, truth: Reading) -> float:
    if found.verdict != truth.verdict:
        same_reason = found.state == truth.state and found.terms == truth.terms
        return 1.0 if same_reason or found.state == "both" else 2.0
    if found.state == truth.state:
        elsewhere = not found.places or not found.places & truth.places
        return 2.0 if found.terms and truth.terms and not found.terms & truth.terms and elsewhere else 5.0
    return 3.0 if "" in (found.state, truth.state) else 2.0
