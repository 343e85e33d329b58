from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hansa.client.retrieval.index import MAX_ITEMS, CatalogueIndex
from hansa.core.errors import InvalidInputError, NotFoundError
from tests.fakes.retrieval_model import FakeRetrievalModel, Product

SHOP = [
    Product("s1", "Red running shoes", 50.0),
    Product("s2", "Blue running shoes", 55.0),
    Product("h1", "Red hat", 9.0),
    Product("h2", "Green hat", None),
    Product("l1", "Table lamp", 20.0),
    Product("l2", "Floor lamp", 40.0, available=False),
    Product("z1", "运动鞋", 30.0),
]


def build(
    items: Sequence[Product] = SHOP, new: Sequence[str] = (), seed: int = 0
) -> CatalogueIndex:
    model = FakeRetrievalModel()
    embeddings = model.embed([item.text for item in items])
    rng = np.random.default_rng(seed)
    return CatalogueIndex(items, model, embeddings, rng=rng, new_item_ids=new)


def ids(hits: Sequence[object]) -> list[str]:
    return [hit.item_id for hit in hits]  # type: ignore[attr-defined]


def test_search_answers_the_item_that_says_the_words_first() -> None:
    hits = build().search("red running shoe", 3)
    assert ids(hits)[0] == "s1"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert (hits[0].title, hits[0].price) == ("Red running shoes", 50.0)


def test_a_score_is_bm25_over_its_best_plus_cosine() -> None:
    index, model = build(), FakeRetrievalModel()
    first = index.search("green hat", 1)[0]
    cosine = float(model.embed(["green hat"])[0] @ model.embed(["green hat"])[0])
    assert first.item_id == "h2"
    assert first.score == pytest.approx(1.0 + cosine, abs=1e-5)


def test_chinese_is_searched() -> None:
    assert ids(build().search("动鞋", 1)) == ["z1"]


def test_an_unavailable_item_is_never_answered_but_counts_as_history() -> None:
    index = build()
    assert "l2" not in ids(index.search("floor lamp", 100))
    hits = index.recommend(["l2"], 100)
    assert "l2" not in ids(hits)
    assert ids(hits)[0] == "l1"


def test_a_query_that_no_word_matches_is_answered_by_meaning_alone() -> None:
    assert len(build().search("unheard", 3)) == 3


def test_recommend_leaves_out_what_was_seen_unless_asked() -> None:
    index = build()
    assert ids(index.recommend(["s1"], 1)) == ["s2"]
    assert ids(index.recommend(["s1"], 1, exclude_seen=False)) == ["s1"]


def test_only_new_items_are_answered_where_asked() -> None:
    index = build(new=["h1", "h2", "l2", "not in the shop"])
    assert set(ids(index.recommend(["s1"], 100, only_new=True))) == {"h1", "h2"}
    assert ids(index.recommend(["s1", "h1"], 100, only_new=True)) == ["h2"]
    assert build().recommend(["s1"], 10, only_new=True) == []


def test_unknown_ids_are_ignored_beside_a_known_one() -> None:
    index = build()
    assert index.recommend(["ghost", "s1", "s1"], 5) == index.recommend(["s1"], 5)


def test_a_history_of_unknown_ids_only_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="none of these items") as caught:
        build().recommend(["ghost"], 5)
    assert "ghost" not in str(caught.value)


def test_a_shopper_who_has_seen_everything_gets_nothing() -> None:
    assert build().recommend([item.item_id for item in SHOP], 5) == []


def test_a_limit_above_the_catalogue_gives_all_available_items_once() -> None:
    hits = ids(build().search("lamp", 1000))
    assert sorted(hits) == sorted(item.item_id for item in SHOP if item.available)


@pytest.mark.parametrize("limit", [0, -1])
def test_an_empty_limit_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInputError, match="limit"):
        build().search("hat", limit)
    with pytest.raises(InvalidInputError, match="limit"):
        build().recommend(["h1"], limit)


@pytest.mark.parametrize("query", ["", "  \t\n"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(InvalidInputError, match="query is empty"):
        build().search(query, 5)


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="history is empty"):
        build().recommend([], 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad: float) -> None:
    embeddings = np.full((len(SHOP), 64), 0.1, np.float32)
    embeddings[2, 3] = bad
    with pytest.raises(InvalidInputError, match="not finite"):
        CatalogueIndex(SHOP, FakeRetrievalModel(), embeddings, rng=np.random.default_rng())


def test_a_model_with_item_vectors_that_are_not_finite_is_refused() -> None:
    class Broken(FakeRetrievalModel):
        def item_vectors(self, embeddings: np.ndarray) -> np.ndarray:
            return embeddings * np.nan

    embeddings = FakeRetrievalModel().embed([item.text for item in SHOP])
    with pytest.raises(InvalidInputError, match="refuse the release"):
        CatalogueIndex(SHOP, Broken(), embeddings, rng=np.random.default_rng())


def test_fewer_embeddings_than_items_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="7 items need as many embeddings"):
        CatalogueIndex(
            SHOP, FakeRetrievalModel(), np.ones((6, 64), np.float32), rng=np.random.default_rng()
        )


def test_an_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="occurs twice"):
        build([*SHOP, SHOP[0]])


def test_a_catalogue_above_what_a_scan_can_bear_is_refused() -> None:
    items = [SHOP[0]] * (MAX_ITEMS + 1)
    with pytest.raises(InvalidInputError, match="100001 items, above 100000"):
        CatalogueIndex(
            items, FakeRetrievalModel(), np.ones((1, 64), np.float32), rng=np.random.default_rng()
        )


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="empty"):
        CatalogueIndex(
            [], FakeRetrievalModel(), np.ones((0, 64), np.float32), rng=np.random.default_rng()
        )


def test_recall_of_the_scans_is_checked_at_the_build() -> None:
    rng = np.random.default_rng(0)
    items = [Product(f"p{i}", f"item {rng.integers(300)} {rng.integers(300)}") for i in range(1500)]
    recall = build(items).recall
    assert recall.search >= 0.98
    assert recall.recommend >= 0.98


def test_fused_answers_equal_the_full_formula_over_the_whole_catalogue() -> None:
    from hansa.client.retrieval.lexical import LexicalIndex

    rng = np.random.default_rng(1)
    items = [Product(f"p{i}", f"word{rng.integers(40)} word{rng.integers(40)}") for i in range(900)]
    model, texts = FakeRetrievalModel(), [item.text for item in items]
    index, lexical, vectors = build(items), LexicalIndex(texts), model.embed(texts)
    for query in ("word3 word7", "word1", "word39 word2 word5"):
        full = lexical.scores(query) + vectors @ model.embed([query])[0]
        expected = np.lexsort((np.arange(900), -full))[:10]
        hits = index.search(query, 10)
        np.testing.assert_allclose([hit.score for hit in hits], full[expected], atol=1e-5)


def test_many_threads_get_the_same_answers_as_one() -> None:
    index = build()
    queries = ["red hat", "lamp", "shoes", "运动"] * 25
    expected = [index.search(query, 5) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: index.search(query, 5), queries)) == expected
