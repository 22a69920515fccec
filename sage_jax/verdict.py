"""The verdict that an answer begins with, read alike by data sets, metrics and judge; what a score joins it with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Final, Literal

Language = Literal["en", "zh"]
"""What questions and answers are written in: English or Chinese."""


@dataclasses.dataclass(frozen=True)
class JointScore:
    """How the score of an image joins verdict token, map and pixels.

    It is sigmoid(verdict * log-odds + map * peak + difference * apart + offset). The peak of the map is 1 - the least
    similarity of an image token to the reference; `apart`, of registered pairs, the largest absolute difference of
    pixels (`evaluation.baselines`), as share of the range of grey levels.

    Attributes:
      verdict, map, offset, difference: The weights, by labelled images or by good ones alone (`metrics.joint_score`).
    """

    verdict: float
    map: float
    offset: float
    difference: float = 0.0


UNKNOWN_CATEGORY: Final = "part"
"""Of images about which nobody says what they show."""


def kind_of_part(category: str) -> str:
    """A category as one kind however it is spelled: `Metal_Nut` is `metal nut`; "" where nobody says what it is."""
    kind = " ".join(category.replace("_", " ").lower().split())
    return "" if kind == UNKNOWN_CATEGORY else kind


@dataclasses.dataclass(frozen=True)
class ScoreShifts:
    """What is added to the log-odds of an image's score by its kind of part, so that one threshold serves all kinds.

    Attributes:
      of_category: Of the kinds that were calibrated each by itself, by `kind_of_part`.
      others: Of all other images.
    """

    of_category: Mapping[str, float] = dataclasses.field(default_factory=dict)
    others: float = 0.0

    def of(self, category: str) -> float:
        """What is added to the log-odds of an image's score."""
        return self.of_category.get(kind_of_part(category), self.others)

    def covers(self, category: str) -> bool:
        """Whether a promise holds of images of this kind: it was calibrated by itself, or none was."""
        return not self or kind_of_part(category) in self.of_category

    def __bool__(self) -> bool:
        return bool(self.of_category) or self.others != 0.0


CHINESE_YES: Final = (
    "是",
    "是的",
    "对",
    "对的",
    "正确",
    "没错",
    "真",
    "有",
    "有的",
    "存在",
    "会",
    "会的",
    "能",
    "能的",
    "可以",
)
CHINESE_NO: Final = (
    *("否", "不", "不是", "不是的", "不对", "不正确", "错", "错误", "错误的", "假", "没有", "没", "无", "不存在"),
    *("不会", "不能", "不可以"),
)
"""Words that are a verdict where they stand alone at the front of a Chinese answer."""

_ENGLISH: Final = re.compile(
    r"""[\W_]*                                  # markdown, quotes, brackets, blanks
        (?P<verdict>yes|true|no|false)(?![a-z0-9])
        (?!\s*(?:/|\bor\b)\s*(?:yes|true|no|false)) # the choices repeated ("Yes or no?") are no verdict
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WORD: Final = "|".join(sorted((*CHINESE_YES, *CHINESE_NO), key=len, reverse=True))
_CHINESE: Final = re.compile(
    rf"""[\W_]*
        (?P<verdict>{_WORD})(?=[\W_]|$)          # no piece of a word or a sentence: 是否, 有没有, 不同, 对比
        (?!\s*(?:[/／|、]|或者?|还是)\s*(?:{_WORD})(?=[\W_]|$)) # the choices repeated (是/否)
    """,
    re.VERBOSE,
)


def parse_verdict(answer: str, language: Language = "en") -> bool | None:
    """The verdict that an answer begins with: True for yes or true, False for no or false, None where there is none.

    "Yes, there is a crack."  True      "**False.** All pins are there."  False
    "No defect is visible."   False     "Nothing is wrong."               None
    "Yes or no? Yes."         None      ""                                None

    Under `zh` an answer may begin with a Chinese word too, which punctuation, a blank or the answer's end must follow:

    "是的，有裂纹。"            True      "没有。"                            False
    "是否有裂纹不清楚。"        None      "不同之处在左上角。"                None
    """
    return split_verdict(answer, language)[0]


def split_verdict(answer: str, language: Language = "en") -> tuple[bool | None, str]:
    """The verdict, and the reason that follows it; without a verdict the whole answer is reason."""
    match = _ENGLISH.match(answer)
    if match is not None:
        return match["verdict"].lower() in ("yes", "true"), answer[match.end() :]
    match = _CHINESE.match(answer) if language == "zh" else None
    if match is not None:
        return match["verdict"] in CHINESE_YES, answer[match.end() :]
    return None, answer
