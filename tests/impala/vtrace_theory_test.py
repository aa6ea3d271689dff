"""The fixed point and the contraction of V-trace (Theorem 1) on a small MDP.

Expectations are exact: every path of the MDP is enumerated.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from impala import vtrace


def clipped(ratios, threshold):
  return ratios if threshold is None else np.minimum(threshold, ratios)


# A small MDP. The transition from state 2 to state 0 by action 1 ends an episode.
MDP_GAMMA = 0.7
TRANSITIONS = np.array(
  [
    [[0.1, 0.6, 0.3], [0.7, 0.2, 0.1]],
    [[0.3, 0.3, 0.4], [0.1, 0.1, 0.8]],
    [[0.5, 0.4, 0.1], [0.6, 0.2, 0.2]],
  ]
)  # [X, A, X']
REWARDS = np.array(
  [
    [[1.0, -1.0, 0.5], [0.0, 2.0, -0.5]],
    [[0.3, 0.0, 1.0], [-2.0, 0.5, 1.5]],
    [[0.0, 1.0, -1.0], [3.0, -0.3, 0.2]],
  ]
)  # [X, A, X']
CONTINUES = np.ones_like(TRANSITIONS)
CONTINUES[2, 1, 0] = 0.0
MU = np.array([[0.5, 0.5], [0.8, 0.2], [0.3, 0.7]])  # [X, A]
PI = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])  # [X, A]
STATES, ACTIONS = MU.shape
TRUNCATIONS = [
  (1.0, 1.0),
  (1.0, 0.25),
  (1.0, 0.0),
  (2.0, 1.0),
  (2.0, 2.0),
  (0.5, 0.5),
  (None, 1.0),
  (None, None),
]


def policy_at_fixed_point(rho_bar):
  """Equation 3: pi_rhobar(a|x), proportional to min(rho_bar mu(a|x), pi(a|x))."""
  weights = PI if rho_bar is None else np.minimum(rho_bar * MU, PI)
  return weights / weights.sum(axis=1, keepdims=True)


def action_values(values):
  return np.sum(TRANSITIONS * (REWARDS + MDP_GAMMA * CONTINUES * values), axis=2)


def policy_values(policy):
  """V^policy, the solution of its linear Bellman equation."""
  rewards = np.einsum('xa,xay,xay->x', policy, TRANSITIONS, REWARDS)
  transitions = np.einsum('xa,xay,xay->xy', policy, TRANSITIONS, CONTINUES)
  return np.linalg.solve(np.eye(STATES) - MDP_GAMMA * transitions, rewards)


class Paths(NamedTuple):
  """Every possible unroll of the behaviour policy, from every first state."""

  states: np.ndarray  # [T+1, B]
  actions: np.ndarray  # [T, B]
  probabilities: np.ndarray  # [B], given the first state

  @property
  def steps(self):
    return self.states[:-1], self.actions, self.states[1:]


def enumerate_paths(length):
  choices = itertools.product(range(STATES), *(range(ACTIONS), range(STATES)) * length)
  visited = np.array(list(choices)).T
  states, actions = visited[::2], visited[1::2]
  each_step = MU[states[:-1], actions] * TRANSITIONS[states[:-1], actions, states[1:]]
  return Paths(states, actions, np.prod(each_step, axis=0))


PATHS = enumerate_paths(length=3)


def vtrace_on_paths(values, rho_bar, c_bar, **keywords):
  step_values = values[PATHS.states]
  ratios = (PI / MU)[PATHS.states[:-1], PATHS.actions]
  arguments = (
    np.log(ratios),
    MDP_GAMMA * CONTINUES[PATHS.steps],
    REWARDS[PATHS.steps],
    step_values[:-1],
    step_values[-1],
  )
  return vtrace.from_importance_weights(
    *(tf.constant(argument, tf.float32) for argument in arguments),
    clip_rho_threshold=rho_bar,
    clip_c_threshold=c_bar,
    **keywords,
  )


def vtrace_operator(values, rho_bar, c_bar):
  """The operator R of Theorem 1: the exact expectation of v_0 under mu for each first state."""
  targets = vtrace_on_paths(values, rho_bar, c_bar).vs[0].numpy()
  return np.bincount(PATHS.states[0], PATHS.probabilities * targets)


def operator_matrix(rho_bar, c_bar):
  """A of the affine operator R V = A V + b: its images of unit vectors minus that of zero."""
  origin = vtrace_operator(np.zeros(STATES), rho_bar, c_bar)
  return np.stack(
    [vtrace_operator(unit, rho_bar, c_bar) - origin for unit in np.eye(STATES)], axis=1
  )


class TestTheory:
  """Section 4.1 and appendix A, in exact expectations on the MDP above."""

  @pytest.mark.parametrize('rho_bar, c_bar', TRUNCATIONS)
  def test_converges_to_the_values_of_the_truncated_policy(self, rho_bar, c_bar):
    values = np.zeros(STATES)
    for _ in range(150):
      values = vtrace_operator(values, rho_bar, c_bar)
    np.testing.assert_allclose(values, policy_values(policy_at_fixed_point(rho_bar)), atol=2e-5)

  def test_each_rho_bar_has_values_of_its_own(self):
    # Else the test above could tell neither one rho_bar from another nor from evaluating mu.
    fixed_points = [
      policy_values(policy_at_fixed_point(rho_bar)) for rho_bar in (0.5, 1.0, 2.0, None)
    ]
    for one, other in itertools.combinations([policy_values(MU), *fixed_points], 2):
      assert np.max(np.abs(one - other)) > 0.03

  @pytest.mark.parametrize('rho_bar, c_bar', TRUNCATIONS)
  def test_contracts_at_least_as_fast_as_theorem_1_says(self, rho_bar, c_bar):
    matrix = operator_matrix(rho_bar, c_bar)
    beta = np.min(np.sum(MU * clipped(PI / MU, rho_bar), axis=1))
    assert np.all(matrix > -1e-6)
    assert np.max(np.sum(np.abs(matrix), axis=1)) <= 1.0 - (1.0 - MDP_GAMMA) * beta + 1e-6

  def test_longer_traces_contract_faster(self):
    moduli = [np.sum(operator_matrix(1.0, c_bar), axis=1) for c_bar in (0.0, 0.25, 0.5, 1.0)]
    for shorter, longer in itertools.pairwise(moduli):
      assert np.all(longer < shorter - 1e-3)

  @pytest.mark.parametrize('pg_bootstrap', ['vs', 'values'])
  @pytest.mark.parametrize('rho_bar', [1.0, 2.0, None])
  def test_expected_advantage_is_the_truncated_policys(self, rho_bar, pg_bootstrap):
    # Section 4.2 and appendix E.3: at the fixed point q_s estimates Q of pi_rhobar with either
    # bootstrap.
    values = policy_values(policy_at_fixed_point(rho_bar))
    returns = vtrace_on_paths(
      values, rho_bar, 1.0, clip_pg_rho_threshold=rho_bar, pg_bootstrap=pg_bootstrap
    )
    first_pairs = PATHS.states[0] * ACTIONS + PATHS.actions[0]
    sums = np.bincount(first_pairs, PATHS.probabilities * returns.pg_advantages[0].numpy())
    advantages = clipped(PI / MU, rho_bar) * (action_values(values) - values[:, None])
    np.testing.assert_allclose(sums.reshape(MU.shape), MU * advantages, atol=2e-6)
