"""The vocabulary: fact sentences, fall-backs for unknown names, and the messages for a wrong file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.data.adpl.facts import Vocabulary, VocabularyError, load_vocabulary, plural_of
from sage_jax.data.sources.generated import CATEGORIES, DEFECT_TYPES

SMALL = """
[risks.load]
fails = "fail under load"
works = "carry its load"

[defects.chip]
term = "chip"
synonyms = ["nick"]
risk = "load"
consequences = ["makes it weak"]
appearance = "a bite"

[objects.bracket]
material = "steel"
function = "holds a shelf"
typical = ["chip"]

[default]
material = "metal"
function = "does its work"
typical = ["chip"]
"""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary("")


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "words.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_builtin_vocabulary_lists_everything_the_generator_draws(vocabulary: Vocabulary):
    assert set(CATEGORIES) <= set(vocabulary.objects)
    assert set(DEFECT_TYPES) <= set(vocabulary.defect_terms)


def test_circuit_boards_show_the_six_deeppcb_types(vocabulary: Vocabulary):
    typical = [words.term for words in vocabulary.object_of("circuit board").typical]
    assert typical == ["open", "short", "mousebite", "spur", "spurious copper", "pin-hole"]


def test_facts_are_three_or_four_short_sentences(vocabulary: Vocabulary):
    for category in (*vocabulary.objects, "fuel valve", ""):
        facts = vocabulary.facts_for(category)
        assert 3 <= len(facts) <= 4
        for fact in facts:
            assert fact[0].isupper() and fact.endswith(".") and len(fact.split()) <= 14, fact


def test_facts_name_the_object_its_anomalies_and_their_effect(vocabulary: Vocabulary):
    assert vocabulary.facts_for("washer") == (
        "A washer is made of steel and spreads the load of a bolt.",
        "It may show a scratch, a crack or a dent.",
        "A scratch makes the surface look worn.",
        "A crack can grow until the part fails.",
    )


def test_unknown_names_keep_their_own_words(vocabulary: Vocabulary):
    assert vocabulary.object_of("Fuel_Valve").name == "fuel valve"
    assert "fuel valve" in vocabulary.facts_for("Fuel_Valve")[0]
    assert vocabulary.defect_of("bent_lead").noun == "a bent lead"
    assert vocabulary.terms_with(["bent_lead", "scratch", "bad"])[-1] == "bent lead"


@pytest.mark.parametrize(
    ("folder", "term"),
    [
        ("broken_large", "missing piece"),
        ("color", "discolouration"),
        ("Pin-hole", "pin-hole"),
        ("copper", "spurious copper"),
    ],
)
def test_folder_names_find_their_term(vocabulary: Vocabulary, folder: str, term: str):
    assert vocabulary.defect_of(folder).term == term


def test_names_that_only_say_defective_are_no_terms(vocabulary: Vocabulary):
    for name in ("bad", "ko", "defective", ""):
        assert vocabulary.defect_of(name).generic
    assert "defect" not in vocabulary.defect_terms and "bad" not in vocabulary.synonyms


def test_no_two_defects_share_a_name(vocabulary: Vocabulary):
    owners: dict[str, str] = {}
    for words in vocabulary.defects.values():
        for name in (words.name, words.term, *words.synonyms):
            plain = name.replace("_", " ").replace("-", " ")
            assert owners.setdefault(plain, words.name) == words.name


@pytest.mark.parametrize(("noun", "plural"), [("scratch", "scratches"), ("anomaly", "anomalies"), ("dent", "dents")])
def test_plurals_are_regular(noun: str, plural: str):
    assert plural_of(noun) == plural


def test_a_users_file_replaces_the_builtin_one(tmp_path: Path):
    vocabulary = load_vocabulary(written(tmp_path, SMALL))
    assert vocabulary.defect_terms == ("chip",)
    assert vocabulary.synonyms == {"nick": "chip"}
    assert vocabulary.facts_for("bracket")[1] == "It may show a chip."


@pytest.mark.parametrize(
    ("old", "new", "key", "cure"),
    [
        ('risk = "load"', 'risk = "laod"', "defects.chip.risk", "did you mean 'load'"),
        ('typical = ["chip"]', 'typical = ["chp"]', "objects.bracket.typical", "did you mean 'chip'"),
        ('typical = ["chip"]', "typical = []", "objects.bracket.typical", "one or more texts"),
        ('material = "steel"', "", "objects.bracket.material", "is missing"),
        ('material = "steel"', "material = 7", "objects.bracket.material", "expected a text"),
        ('synonyms = ["nick"]', 'synonym = ["nick"]', "defects.chip.synonym", "did you mean 'synonyms'"),
        ('synonyms = ["nick"]', "synonyms = [3]", "defects.chip.synonyms", "texts"),
        ('appearance = "a bite"', 'appearance = " "', "defects.chip.appearance", "is empty"),
        ("[default]", "[defualt]", "defualt", "did you mean 'default'"),
        ("[risks.load]", "[risks", "", "no valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_cure(tmp_path: Path, old: str, new: str, key: str, cure: str):
    path = written(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(VocabularyError) as caught:
        load_vocabulary(path)
    message = str(caught.value)
    assert path in message and key in message and cure in message and "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(VocabularyError, match="none.toml: cannot be read"):
        load_vocabulary(str(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(VocabularyError, match="UTF-8"):
        load_vocabulary(str(tmp_path / "latin.toml"))
