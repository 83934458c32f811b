"""Warm-up and decay as functions of what is done of the run, in whatever unit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from transformers.optimization import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from optimizers.warmup_and_decay import decay_factor, warmup_and_decay, warmup_factor


def test_the_warmup_is_linear_and_ends_at_one():
    assert [warmup_factor(done, 4) for done in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert warmup_factor(0, 0) == 1


def test_the_decays():
    assert [decay_factor(done, 4) for done in (0, 1, 4, 5)] == [1, 0.75, 0, 0]
    assert [decay_factor(done, 4, "cosine") for done in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
    assert [decay_factor(done, 4, "constant") for done in (0, 4)] == [1, 1]


def test_by_default_it_is_a_tenth_of_warmup_and_a_linear_decay_over_the_share_of_the_run():
    factors = [warmup_and_decay(done) for done in (0, 0.05, 0.1, 0.55, 1.0)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@given(share=st.floats(0, 1), warmup=st.floats(0, 0.9), total=st.floats(1, 1e5))
def test_the_unit_does_not_matter(shape, share, warmup, total):
    by_share = warmup_and_decay(share, warmup=warmup, shape=shape)
    assert warmup_and_decay(share * total, total, warmup * total, shape) == pytest.approx(by_share, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "theirs"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
@given(total=st.integers(1, 500), warmup=st.integers(0, 100), step=st.integers(0, 500))
def test_in_steps_it_is_the_schedule_of_transformers_to_the_bit(shape, theirs, total, warmup, step):
    step, warmup = min(step, total - 1), min(warmup, total)
    (expected,) = theirs(SGD([torch.zeros(1)], lr=1.0), warmup, total).lr_lambdas
    assert warmup_and_decay(step, total, warmup, shape) == expected(step)


def test_a_warmup_over_the_whole_run_has_no_decay():
    assert [warmup_and_decay(step, 4, 4) for step in (0, 2, 3)] == [0, 0.5, 0.75]
