"""Enumerated trajectories, probabilities and scores against recursion, one scalar at a time."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import close
from trees import entry, name, recursion

from upge import UpgeError
from upge.exact import enumeration
from upge.exact.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    vocab = draw(st.integers(2, 4))
    return Tree(vocab, draw(st.integers(0, vocab - 1)), draw(st.integers(1, 4 if vocab < 4 else 3)))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    tree, seed, questions = draw(trees()), draw(st.integers(0, 99)), draw(st.integers(1, 2))
    if draw(st.booleans()):
        return TabularPolicy.random(tree, seed, questions=questions)
    return NetworkPolicy(tree, 3, seed=seed, questions=questions)


def test_by_hand() -> None:
    tree = Tree(vocab=3, eos=1, horizon=2)
    assert tree.prefix_names == ["", "0", "2"]
    assert tree.trajectory_names == ["1", "0 1", "2 1", "0 0", "0 2", "2 0", "2 2"]
    assert tree.length.tolist() == [1, 2, 2, 2, 2, 2, 2]
    assert tree.prefix.tolist() == [[0, 0], [0, 1], [0, 2], [0, 1], [0, 1], [0, 2], [0, 2]]
    probs = torch.tensor([[1, 1, 2], [1, 1, 2], [2, 1, 1]], dtype=torch.float64) / 4
    policy = TabularPolicy(tree, probs.log())
    expected = torch.tensor([4, 1, 2, 1, 2, 4, 2], dtype=torch.float64) / 16
    close(policy.logp().exp(), expected)
    reward = torch.tensor([1, 0, 0, 1, 0, 1, 1], dtype=torch.float64)
    close(tree.value(policy.log_probs(), reward), torch.tensor([11 / 16, 1 / 4, 3 / 4]).double())
    close(policy.entropy()[0, 0], 1.5 * math.log(2))


@given(trees())
def test_trajectories_are_those_of_the_recursion(tree: Tree) -> None:
    expected = list(recursion(tree))
    assert sorted(tree.trajectory_names) == sorted(map(name, expected))
    prefixes = {tau[:t] for tau in expected for t in range(len(tau))}
    assert sorted(tree.prefix_names) == sorted(map(name, prefixes))
    assert (tree.trajectories, tree.prefixes) == (len(expected), len(prefixes))
    assert tree.levels[-1] == tree.trajectories


@given(policies())
def test_log_probabilities_values_and_entropy_are_those_of_the_recursion(policy: Policy) -> None:
    tree, question = policy.tree, policy.questions - 1
    table = policy.log_probs(question)
    reward = torch.arange(tree.trajectories).double().sin()
    token_logp, entropy = policy.token_logp(question), policy.entropy(question)
    ahead = {n: [0.0, 0.0] for n in tree.prefix_names}  # E[1{prefix} r] and P(prefix)
    for tau in recursion(tree):
        i, total = tree.trajectory_names.index(name(tau)), 0.0
        for t, token in enumerate(tau):
            logp = entry(policy, table, tau[:t], token).item()
            assert token_logp[i, t].item() == pytest.approx(logp)
            pi = [entry(policy, table, tau[:t], v).item() for v in range(tree.vocab)]
            assert entropy[i, t].item() == pytest.approx(-sum(math.exp(x) * x for x in pi))
            total += logp
        assert not token_logp[i, len(tau) :].any() and not entropy[i, len(tau) :].any()
        for t in range(len(tau)):
            sums = ahead[name(tau[:t])]
            sums[0] += math.exp(total) * reward[i].item()
            sums[1] += math.exp(total)
    value = tree.value(table, reward)
    close(value, value.new_tensor([ahead[n][0] / ahead[n][1] for n in tree.prefix_names]))
    close(policy.logp(question).exp().sum(), 1.0)


@given(policies())
def test_scores_are_autograds(policy: Policy) -> None:
    tree, question = policy.tree, policy.questions - 1
    theta = policy.theta.clone().requires_grad_()
    table = policy.log_probs(question, theta)
    draw = partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = draw(3, *table.shape)
    expected = [
        torch.autograd.grad((w * table).sum(), theta, retain_graph=True)[0] for w in weights
    ]
    scores = policy.scores(question)
    close(scores.combine(weights), torch.stack(expected))
    rows = torch.tensor([0, tree.trajectories - 1, 1])
    w = draw(3, tree.horizon) * tree.mask[rows]
    logp = (w * policy.token_logp(question, theta)[rows]).sum(1)
    norms = [torch.autograd.grad(x, theta, retain_graph=True)[0].square().sum() for x in logp]
    close(scores.square_norms(w, rows), torch.stack(norms))


def test_long_sums_of_scores_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = NetworkPolicy(Tree(3, 0, 3), 3)
    rows = torch.arange(policy.tree.trajectories)
    weights = policy.tree.mask.double()
    whole = policy.scores().square_norms(weights, rows)
    monkeypatch.setattr(enumeration, "_PIECE", 2 * len(policy.theta))
    close(policy.scores().square_norms(weights, rows), whole)


def test_a_token_of_probability_zero() -> None:
    tree = Tree(2, 1, 2)
    policy = TabularPolicy(tree, torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
    close(policy.logp().exp(), torch.tensor([0, 0.5, 0.5]))
    close(policy.entropy(), torch.tensor([[0, 0], [0, 1], [0, 1]]).double() * math.log(2))


def test_questions_share_a_networks_parameters_and_a_tables_tree() -> None:
    tree = Tree(3, 0, 2)
    for policy in (NetworkPolicy(tree, 3, questions=2), TabularPolicy.random(tree, 0, questions=2)):
        assert not torch.equal(policy.log_probs(0), policy.log_probs(1))
    assert NetworkPolicy(tree, 3, theta=NetworkPolicy(tree, 3).theta + 1).theta.shape == (24,)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 0, 3), "vocab: got 1, wanted at least 2"),
        ((3, 0, 0), "horizon: got 0, wanted at least 1"),
        ((3, 3, 2), "eos: got 3, wanted a token from 0 to 2"),
        ((3, 0, 20), "make 2,097,151 trajectories, more than the 2,000,000"),
        ((2, 0, 10**17), "make 100,000,000,000,000,001 trajectories, more than"),
        ((11, 0, 30), "at least 10^30 trajectories, more than the 2,000,000"),
        ((2, 0, 10**40), "at least 10^18 trajectories"),
        ((10**30, 0, 2), "at least 10^36 trajectories"),
        ((2, 0, 5000), "5,001 trajectories of up to 5,000 tokens: 25,005,000 places, more than"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        Tree(*sizes)
    assert message in str(error.value)


def test_parameters_of_the_wrong_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(3, 0, 2)
    with pytest.raises(UpgeError, match=r"logits: got shape \(4, 3\)"):
        TabularPolicy(tree, torch.zeros(4, 3))
    with pytest.raises(UpgeError, match=r"theta: got shape \(5,\), wanted \(24,\)"):
        NetworkPolicy(tree, 3, theta=torch.zeros(5))
    monkeypatch.setattr(enumeration, "MAX_JACOBIAN", 100)
    with pytest.raises(UpgeError, match="have 216 entries, more than the 100"):
        NetworkPolicy(tree, 3).scores()
