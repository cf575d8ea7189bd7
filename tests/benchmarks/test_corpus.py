"""The verdict on each request shape of the corpus is the right one."""

from __future__ import annotations

from benchmarks import corpus
from benchmarks.corpus import Finds, Shape
from benchmarks.verdicts import Judged, judged, precision_and_recall
from telemetry import fanout


def test_the_corpus_is_large_and_half_of_it_is_taken_from_life() -> None:
    shapes = corpus.all_shapes()
    assert len(shapes) >= 36
    assert sum(bool(each.source) for each in shapes) * 2 >= len(shapes)
    expected = {kind for each in shapes for kind, _ in each.finds}
    assert expected == {*fanout.VERDICTS, *fanout.REMARKS} - {fanout.OK, *fanout.BY_TIME}
    assert sum(not each.finds for each in shapes) >= 10, "there is much that nothing is to be said of"


def test_the_verdict_on_each_shape_is_right_with_precision_and_recall_of_one() -> None:
    found = judged(corpus.all_shapes())
    wrong = {each.shape.name: (each.shape.finds, each.found) for each in found if each.found != each.shape.finds}
    assert wrong == {}
    assert precision_and_recall(found, {*fanout.VERDICTS, *fanout.REMARKS})[:2] == (1, 1)


def made(finds: Finds, was_found: Finds) -> Judged:
    return Judged(Shape("", lambda _: None, finds, ""), was_found)


def test_a_false_alarm_lowers_the_precision_and_a_miss_the_recall() -> None:
    one, other = ("n_plus_one", "users"), ("n_plus_one", "posts")
    right = made(frozenset({one}), frozenset({one}))
    alarm = made(frozenset(), frozenset({one}))
    miss = made(frozenset({one}), frozenset())
    wrong_table = made(frozenset({one}), frozenset({other}))
    assert precision_and_recall([right], ["n_plus_one"]) == (1, 1, 1)
    assert precision_and_recall([right, alarm], ["n_plus_one"]) == (0.5, 1, 1)
    assert precision_and_recall([right, miss], ["n_plus_one"]) == (1, 0.5, 2)
    assert precision_and_recall([right, wrong_table], ["n_plus_one"]) == (0.5, 0.5, 2)
    assert precision_and_recall([alarm], ["duplicates"]) == (1, 1, 0)
