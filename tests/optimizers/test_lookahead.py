"""The tree of delayed decisions: growing, committing, and its form in a checkpoint."""

from __future__ import annotations

import io

import torch

from optimizers.lookahead import Option, OptionTree


def grown(levels):
    """A tree of two options per node, with seeds that say where in the tree they are."""
    tree = OptionTree.of_staying(levels)
    for _ in range(levels):
        tree.grow(
            {
                path: [Option(selection=1, seed=10 * tree.along(path)[-1].seed + i, scale=0.5) for i in (1, 2)]
                for path in tree.leaves()
            }
        )
        tree.commit(tree.current)
    return tree


def test_a_new_tree_stays_in_place():
    tree = OptionTree.of_staying(3)
    assert tree.leaves() == [(0, 0, 0)] == [tree.current]
    assert [option.scale for option in tree.along(tree.current)] == [0, 0, 0]
    assert tree.selections() == {0}


def test_a_decision_keeps_what_follows_it_and_drops_the_rest():
    tree = grown(levels=2)
    assert tree.leaves() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [option.seed for option in tree.along((1, 0))] == [2, 21]
    tree.grow({path: [Option(2, seed=0), Option(2, seed=99, scale=0.1)] for path in tree.leaves()})
    decided = tree.commit((1, 0))
    assert (decided.seed, decided.scale, decided.children) == (2, 0.5, [])
    assert tree.current == (0, 0)  # the best child of the leaf (1, 0)
    assert [option.seed for option in tree.options] == [21, 22]
    assert [option.seed for option in tree.along((1, 1))] == [22, 99]
    assert tree.selections() == {1, 2}


def test_the_checkpoint_holds_lists_and_numbers_and_shares_nothing_with_the_tree():
    tree = grown(levels=2)
    state = tree.to_state()
    assert state["tree"][1] == [1, 2, 0.5, [[1, 21, 0.5, []], [1, 22, 0.5, []]]]
    assert state["path"] == [0, 0]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = OptionTree.from_state(torch.load(file, weights_only=True))
    assert loaded == tree
    loaded.grow({path: [Option(3)] for path in loaded.leaves()})
    OptionTree.from_state(state).grow({path: [Option(3)] for path in tree.leaves()})
    assert tree.to_state() == state
