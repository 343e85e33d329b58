"""The lexical half of search: words of any language and BM25 over them."""

import re
import unicodedata
from collections.abc import Sequence

import bm25s  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Kana, Han and Hangul: scripts without blanks between words."""

_TOKEN = re.compile(rf"[{_CJK}]+|\d+(?:[./]\d+)*|[^\W\d_{_CJK}]+")
_CJK_START = re.compile(rf"[{_CJK}]")
_ACCENTS = re.compile(r"[\u0300-\u036f]")


def tokenise(text: str) -> list[str]:
    """The searchable words of a text, in order.

    Western words are lower-cased, lose their accents and an English plural's ``s``; a number
    keeps its fraction (``1/2``, ``4.5``) and is parted from its unit (``60w`` is ``60 w``). A run
    of Chinese, Japanese or Korean gives its characters and its pairs of neighbours.
    """
    words: list[str] = []
    for token in _TOKEN.findall(_folded(text)):
        words.extend(_pairs(token) if _CJK_START.match(token) else [_singular(token)])
    return words


def _folded(text: str) -> str:
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", apart))


def _pairs(run: str) -> list[str]:
    return [*run, *(run[i : i + 2] for i in range(len(run) - 1))]


def _singular(word: str) -> str:
    """Harman's S-stemmer, and the plurals in ``es`` of shops: boxes, dresses, brushes, watches.

    References:
        Harman, How effective is suffixing?, JASIS 1991.
    """
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith(("xes", "sses", "shes", "ches")):
        return word[:-2]
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


class LexicalIndex:
    """BM25 (Lucene's variant) over a fixed list of texts; safe to read from many threads."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Counts the words of all texts."""
        self._documents = len(texts)
        tokens = [tokenise(text) for text in texts]
        self._bm25 = bm25s.BM25(k1=1.2, b=0.75, method="lucene") if any(tokens) else None
        if self._bm25 is not None:
            self._bm25.index(tokens, show_progress=False)

    def scores(self, query: str) -> Floats:
        """Each text's BM25 score divided by the best one ``(n,)``: 0 to 1, all 0 without a hit."""
        words = tokenise(query)
        if self._bm25 is None or not words:
            return np.zeros(self._documents, np.float32)
        scores = np.asarray(self._bm25.get_scores(words), np.float32)
        best = scores.max()
        return scores / best if best > 0 else np.zeros_like(scores)
