"""What noisy texts without originals have more of than a reference text, by class.

Words that the reference does not know are traced to the known word that they most likely come
from (one character away, the most frequent one); repeated words, word pairs known in the other
order alone, capitals and marks are counted too. The reference's own held-out half says how
many of each a clean text has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from lope_dist.noise.fit_classes import classify
from lope_dist.noise.spaceless import split_words
from lope_dist.noise.words import edge_marks

_GRAM = 3


class Reference:
    """Words, word pairs and character n-grams of clean texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: Counter[str] = Counter()
        self._pairs: set[tuple[str, str]] = set()
        for text in texts:
            words = [_core(word) for word in split_words(text)]
            self._words.update(filter(None, words))
            self._pairs.update(pairwise(words))
        self._grams = {gram for word in self._words for gram in _grams(word)}
        self._near: dict[str, list[str]] = {}
        for word in self._words:
            for form in {word, *_shorter(word)}:
                self._near.setdefault(form, []).append(word)

    def count(self, texts: Sequence[str]) -> tuple[Counter[str], int]:
        """Return the classes of one row's texts, and how many words it has."""
        counts: Counter[str] = Counter()
        num_words = 0
        for text in texts:
            words = split_words(text)
            num_words += len(words)
            cores = [_core(word) for word in words]
            for word, core in zip(words, cores, strict=True):
                counts["capital"] += word[:1].isupper()
                counts["marks at the edge"] += edge_marks(word)[1] != word
                if core and core not in self._words:
                    counts[self._unknown(core)] += 1
            for pair in pairwise(cores):
                if pair[0] == pair[1]:
                    counts["word twice"] += 1
                elif pair not in self._pairs:
                    counts[
                        "pair in the other order" if pair[::-1] in self._pairs else "new pair"
                    ] += 1
        return counts, num_words

    def _unknown(self, word: str) -> str:
        source = self._source(word)
        if source is not None:
            return "unknown: " + classify(source, word, self._words.__contains__)
        is_strange = any(gram not in self._grams for gram in _grams(word))
        return "unknown: strange" if is_strange else "unknown: plausible"

    def _source(self, word: str) -> str | None:
        """Return the most frequent known word one character (or a swap) away."""
        near = set(self._near.get(word, ()))
        for form in _shorter(word):
            near.update(self._near.get(form, ()))
        return max(near, key=lambda other: (self._words[other], other), default=None)


def _core(word: str) -> str:
    return edge_marks(word)[1].lower()


def _shorter(word: str) -> list[str]:
    """Return the word without each of its characters; a swap shares one of these too."""
    return [word[:i] + word[i + 1 :] for i in range(len(word))] if 1 < len(word) <= 20 else []


def _grams(word: str) -> list[str]:
    framed = f"^{word}$"
    return [framed[i : i + _GRAM] for i in range(len(framed) - _GRAM + 1)]
