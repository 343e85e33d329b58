import numpy as np
import pytest

from hansa.client.retrieval.lexical import LexicalIndex, tokenise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red SHOES", ["red", "shoe"]),
        ("batteries, boxes; glass bus", ["battery", "box", "glass", "bus"]),
        ("dresses brushes watches shoes axes", ["dress", "brush", "watch", "shoe", "ax"]),
        ("Café crème brûlée", ["cafe", "creme", "brulee"]),
        ("1/2 in. x 4.5ft 60W", ["1/2", "in", "x", "4.5", "ft", "60", "w"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("\uff26\uff35\uff2c\uff2c\u3000\uff57\uff49\uff44\uff54\uff48", ["full", "width"]),
        ("运动鞋", ["运", "动", "鞋", "运动", "动鞋"]),
        ("鞋", ["鞋"]),
        ("Nike跑步鞋 42码", ["nike", "跑", "步", "鞋", "跑步", "步鞋", "42", "码"]),
        ("Кроссовки", ["кроссовки"]),
        ("한국", ["한", "국", "한국"]),
        ("... !!! _ 👟", []),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


def test_a_text_with_the_rarer_word_scores_one_and_others_less() -> None:
    index = LexicalIndex(["red shoes", "red hat", "red lamp", "blue lamp"])
    scores = index.scores("red shoe")
    assert scores[0] == 1.0
    assert 0 < scores[1] == scores[2] < 1
    assert scores[3] == 0


def test_chinese_words_are_found_inside_longer_runs() -> None:
    index = LexicalIndex(["男士运动鞋", "女士凉鞋", "电水壶"])
    assert index.scores("运动鞋").argmax() == 0
    assert index.scores("水壶").argmax() == 2
    assert index.scores("鞋")[2] == 0


@pytest.mark.parametrize("query", ["", "?!", "unknown"])
def test_a_query_without_a_known_word_scores_zero_everywhere(query: str) -> None:
    scores = LexicalIndex(["red shoes", "blue hat"]).scores(query)
    np.testing.assert_array_equal(scores, [0, 0])


def test_a_catalogue_without_words_scores_zero() -> None:
    np.testing.assert_array_equal(LexicalIndex(["", "!"]).scores("red"), [0, 0])
