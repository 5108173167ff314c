"""Words and rates in every script."""

import hashlib
import random
import sys
from collections import Counter

import numpy as np
import pytest
import regex
from support.noise_ops import RESPONSE_OPERATIONS, TEXT_OPERATIONS, WITH_UNITS, run, run_responses
from support.quick import quick
from support.scripts import WORDS, sentences

from lope_dist.config.noise import TextNoiseConfig
from lope_dist.core.errors import LopeError
from lope_dist.noise.base import NOISE, CharacterOperation
from lope_dist.noise.mix import corrupt, example_keys
from lope_dist.noise.spaceless import split_words
from lope_dist.noise.words import graphemes, word_table

FOUND = [
    ("今天天气很好，我们去公园散步。", "今天 天气 很好， 我们 去 公园 散步。"),
    ("他说：「你好」。（然后）走了", "他 说： 「你好」。 （然后） 走了"),
    ("私は昨日、東京で友達に会いました。", "私 は 昨日、 東京 で 友達 に 会 いま した。"),
    ("เราไปเดินเล่นที่สวน", "เรา ไป เดิน เล่น ที่ สวน"),
    ("ລາວເປັນປະເທດ", "ລາວ ເປັນ ປະເທດ"),
    ("ខ្ញុំទៅផ្សារ", "ខ្ញុំ ទៅ ផ្សារ"),
    ("ကျွန်တော်ကျောင်းသို့သွားသည်", "ကျွန်တော် ကျောင်း သို့ သွား သည်"),
    ("བོད་སྐད་ཡིག", "བོད་ སྐད་ ཡིག"),
    ("ꦗꦮꦶꦠꦼ", "ꦗ ꦮꦶ ꦠꦼ"),  # no dictionary: graphemes
    ("我用Python3写了a.b的程序", "我 用 Python3 写 了 a.b 的 程序"),
    ("使用<|im_end|>和[INST]吧", "使用 <|im_end|> 和 [INST] 吧"),
    ("中国은 나라", "中国 은 나라"),
    ("don't stop, l'été (now)!", "don't stop, l'été (now)!"),
    ("мы идём домой، ثم عاد.", "мы идём домой، ثم عاد."),
    ("हिन्दी में शब्द। 오늘은 좋다", "हिन्दी में शब्द। 오늘은 좋다"),
]


@pytest.mark.parametrize(("text", "words"), FOUND)
def test_words_are_found(text, words):
    assert split_words(text) == words.split()
    table = word_table(["x y", text, "你好"])
    first, end = table.first_words[1:3].tolist()
    assert [table.word(word) for word in range(first, end)] == words.split()


LANGUAGES = (*WORDS, "mixed")
UNCHANGEABLE = {"keyboard", "homophone", "ocr", "case_loss", "punctuation_loss"}
"""They need letters, capitals or marks that not every script has."""


def texts_of(language, count=600):
    rng = random.Random(language)
    return [sentences(language, rng, 4) for _ in range(count)]


@pytest.mark.parametrize("language", quick(LANGUAGES, "zh", "th", "ar", "mixed"))
@pytest.mark.parametrize("name", [n for n in TEXT_OPERATIONS if n not in UNCHANGEABLE])
def test_a_rate_is_that_share_of_the_words(language, name):
    texts = texts_of(language)
    num_words = sum(map(len, map(split_words, texts)))
    hits = run(texts, name, 0.1, seed=1).hits
    assert sum(n for _, _, n in hits) / num_words == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("language", quick(LANGUAGES, "zh", "th", "ar", "mixed"))
def test_a_rate_of_five_percent_changes_five_percent(language):
    texts = texts_of(language, 1500)
    keys = example_keys(5, "test", 0, range(len(texts)))
    mix = TextNoiseConfig(rate=0.05, operations=("char_insert", "char_swap", "char_double"))
    places = [0] * len(texts)
    clean = [bytearray(len(text)) for text in texts]
    result = corrupt(texts, range(len(texts)), places, keys, mix, clean)
    num_words = sum(map(len, map(split_words, texts)))
    assert sum(n for _, _, n in result.hits) / num_words == pytest.approx(0.05, rel=0.08)
    changed = sum(map(sum, result.marks)) / sum(map(len, texts))  # letters of changed words
    assert 0.03 < changed < 0.08
    by_character = run(texts, "char_insert", 0.05, "character", seed=2).hits
    num_characters = sum(len(graphemes("".join(text.split()))) for text in texts)
    assert len(by_character) / num_characters == pytest.approx(0.05, rel=0.08)


@pytest.mark.parametrize("language", ["zh", "ja", "th", "ar", "hi", "ko"])
@pytest.mark.parametrize("name", ["keyboard", "homophone", "case_loss", "ocr"])
def test_what_a_script_cannot_take_is_left_out(language, name):
    texts = [" ".join(WORDS[language].split()).replace(".", "")]
    assert run(texts, name, 1.0).hits == []


@pytest.mark.parametrize("name", [n for n in NOISE if isinstance(NOISE[n], CharacterOperation)])
@pytest.mark.parametrize("language", quick(["th", "lo", "km", "my", "hi"], "th", "hi"))
def test_no_grapheme_is_split(language, name):
    texts = texts_of(language, 100)
    for unit in ("word", "character"):
        for old, new in zip(texts, run(texts, name, 0.5, unit).texts, strict=True):
            parts = Counter(regex.findall(r"\X", new)) - Counter(regex.findall(r"\X", old))
            for part in parts:  # an inserted character may take a mark's place before it
                assert part in old or part.isascii() or name == "char_double", part


def test_words_come_back_to_back_where_there_are_no_spaces():
    assert run(["公园"], "word_duplicate").texts == ["公园公园"]
    assert run(["सरल"], "word_duplicate").texts == ["सरल सरल"]
    assert run(["我们公园"], "word_order").texts == ["公园我们"]
    assert run(["去公园"], "word_drop").texts == ["去"]
    assert run(["公园"], "char_swap").texts == ["园公"]
    assert run(["去公园"], "char_delete", 1.0).texts[0] in ("去园", "去公")  # 去 is not lost


def test_only_changed_words_are_marked():
    text = "我们去公园散步，学校有许多学生。"
    keys = example_keys(0, "test", 0, range(200))
    config = TextNoiseConfig(rate=0.1, operations=("char_swap",))
    clean = [bytearray(len(text)) for _ in range(200)]
    result = corrupt([text] * 200, range(200), [0] * 200, keys, config, clean)
    shares = [sum(marks) / len(text) for marks in result.marks]
    assert np.mean(shares) == pytest.approx(0.1, rel=0.5)
    assert max(shares) < 0.8


@pytest.mark.parametrize(("name", "unit"), WITH_UNITS)
def test_special_tokens_between_words_without_spaces_stay(name, unit):
    text = "今天<|im_end|>我们去[INST]公园</s>散步，然后<|im_start|>走了"
    for seed in range(40):
        (new,) = run([text], name, 1.0, unit, seed).texts
        for token in ("<|im_end|>", "[INST]", "</s>", "<|im_start|>"):
            assert new.count(token) == 1, new


def digest(texts):
    found = hashlib.blake2b(digest_size=8)
    for name, unit in WITH_UNITS:
        result = run(texts, name, 0.3, unit, seed=614)
        found.update(repr((name, unit, result.texts, result.hits)).encode())
    for name in RESPONSE_OPERATIONS:
        found.update(repr((name, sorted(run_responses(texts, name, 0.7).items()))).encode())
    return found.hexdigest()


OF_SPACES = [
    'The two of us, here and now, know what Modern times mean. <s> [x]\tAnd then? "Yes" - it\'s '
    "10 o'clock!\n\nNew: line",
    "Größe übt cafe\u0301 👍🏽 ja, Straße! Façade naïve œuvre.",
    "Мы идём сегодня домой, потому что стало поздно. Ёж ест яблоко!",
    "ذهب الولد إلى المدرسة، ثم عاد إلى البيت.",
    "हिन्दी में शब्द हैं और वाक्य भी।",
    "오늘은 날씨가 좋습니다. 우리 같이 산책해요!",
    "Xin chào các bạn, tôi là sinh viên.",
    "x 1 a",
]


def test_frozen_where_words_have_spaces_between_them():
    """As it was before words of other scripts were found: built corpora and studies hang on it."""
    assert digest(OF_SPACES * 6) == "fa72924292ecfc92"


def test_frozen_where_they_have_none():
    """A change here changes every noisy corpus in these scripts; a newer ICU may bring one."""
    rng = random.Random(614)
    texts = [sentences(name, rng, 5) for name in ("zh", "ja", "th", "lo", "km", "my", "mixed")]
    assert digest(texts * 4) == "acf137b3b5124422"


def test_a_missing_icu_is_said_where_it_is_needed_and_nowhere_else(monkeypatch):
    monkeypatch.setitem(sys.modules, "icu4py.breakers", None)
    assert split_words("two words") == ["two", "words"]
    with pytest.raises(LopeError, match=r"icu4py, .*: pip install icu4py\."):
        split_words("我们")
