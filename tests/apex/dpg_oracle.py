"""Ape-X DPG in plain NumPy, float64, by section 3.2 and appendix D of its paper (arXiv 1803.00933).

Both networks by their formulas, with the chain rule written out by hand; and what the tests of DPG
share: tiny networks, samples, and comparisons of arrays.
"""

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from apex import config as configs
from apex import dpg
from common.environments import suite as suites
from common.replay import structures

INPUT = 3
ACTIONS = 2
BATCH = 8
# Float32 sums of up to 402 terms of order one, in three layers, against float64.
FORWARD = dict(rtol=2e-5, atol=5e-6)
# A draw less likely than this fails a test; seeds are fixed, so that it is decided once.
SIGNIFICANCE = 1e-3
# A seed of parameters, and a scale of q which puts many dq/da beyond 1 and -1 and as many between.
SEED = 14
STEEP = 120.0


def make_suite(inputs=INPUT, actions=ACTIONS) -> suites.Suite:
  space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(-np.inf, np.inf, (inputs,), np.float32)}
  )
  return suites.Suite('tiny', ('tiny',), space, suites.continuous_actions(actions), 1, make=None)


def fresh_networks(inputs=INPUT, actions=ACTIONS):
  return dpg.make_networks(settings(), make_suite(inputs, actions))


def seen(x):
  """Observations that have one part."""
  return {'observation': tf.constant(x)}


def settings(**changes) -> configs.Config:
  preset = configs.PRESETS.preset('gym_continuous')
  return dataclasses.replace(preset, **(dict(batch_size=BATCH) | changes))


def randomize(networks, seed, critic_scale=1.0):
  """Gives all parameters, biases too, random values; `critic_scale` multiplies q, hence dq/da."""
  rng = np.random.default_rng(seed)
  for network, last in ((networks.policy, ACTIONS), (networks.critic, 1)):
    for variable in network.trainable_variables:
      scale = 1.0 / np.sqrt(variable.shape[0] if variable.shape.rank == 2 else 4.0)
      if network is networks.critic and variable.shape[-1] == last:
        scale *= critic_scale
      variable.assign(rng.normal(size=variable.shape, scale=scale))
  return networks


def make_networks(seed=SEED, critic_scale=1.0) -> dpg.Networks:
  return randomize(fresh_networks(), seed, critic_scale)


def _in_order(network, shapes):
  """A network's variables in the order of their shapes, which are all different."""
  variables = {tuple(variable.shape): variable for variable in network.trainable_variables}
  assert set(variables) == set(shapes) and len(network.trainable_variables) == len(shapes)
  return [variables[shape] for shape in shapes]


def policy_variables(networks, inputs=INPUT, actions=ACTIONS):
  """The policy's weights and biases, layer by layer."""
  shapes = [(inputs, 300), (300,), (300, 200), (200,), (200, actions), (actions,)]
  return _in_order(networks.policy, shapes)


def critic_variables(networks, inputs=INPUT, actions=ACTIONS):
  """The critic's weights and biases, layer by layer; its second layer reads the action, too."""
  shapes = [(inputs, 400), (400,), (400 + actions, 300), (300,), (300, 1), (1,)]
  return _in_order(networks.critic, shapes)


def gradients_in_order(network, gradients, ordered):
  """Gradients, given in the order of `network.trainable_variables`, in that of `ordered`."""
  by_shape = {
    tuple(variable.shape): np.asarray(gradient)
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True)
  }
  return [by_shape[tuple(variable.shape)] for variable in ordered]


class Replica:
  """Both networks by their formulas; all arrays are float64 and may be changed in place."""

  def __init__(self, policy, critic):
    """Copies variables: weights and biases of three layers, for both networks."""
    self.policy = [np.array(variable, np.float64) for variable in policy]
    self.critic = [np.array(variable, np.float64) for variable in critic]

  @classmethod
  def of(cls, networks, inputs=INPUT, actions=ACTIONS):
    return cls(
      policy_variables(networks, inputs, actions), critic_variables(networks, inputs, actions)
    )

  def pi(self, x):
    return self._policy_layers(x)[-1]

  def q(self, x, a):
    return self._critic_layers(x, a)[-1][:, 0]

  def _policy_layers(self, x):
    w0, b0, w1, b1, w2, b2 = self.policy
    first = np.tanh(x @ w0 + b0)
    second = np.maximum(first @ w1 + b1, 0.0)
    return first, second, np.tanh(second @ w2 + b2)

  def _critic_layers(self, x, a):
    w0, b0, w1, b1, w2, b2 = self.critic
    first = np.concatenate([np.tanh(x @ w0 + b0), a], axis=1)
    second = np.maximum(first @ w1 + b1, 0.0)
    return first, second, second @ w2 + b2

  def critic_gradients(self, x, a, by_q):
    """Gradients of sum_k by_q[k] q(x_k, a_k), by the critic's parameters and by the actions."""
    _, _, w1, _, w2, _ = self.critic
    first, second, _ = self._critic_layers(x, a)
    by_second = by_q[:, np.newaxis] * w2[:, 0] * (second > 0.0)
    by_first = by_second @ w1.T
    features = first[:, :400]
    by_features = by_first[:, :400] * (1.0 - features**2)
    gradients = [
      x.T @ by_features,
      by_features.sum(axis=0),
      first.T @ by_second,
      by_second.sum(axis=0),
      second.T @ by_q[:, np.newaxis],
      by_q.sum(keepdims=True),
    ]
    return gradients, by_first[:, 400:]

  def policy_gradients(self, x, by_action):
    """Gradients of sum_k by_action[k] . pi(x_k), by the policy's parameters."""
    _, _, w1, _, w2, _ = self.policy
    first, second, actions = self._policy_layers(x)
    by_output = by_action * (1.0 - actions**2)
    by_second = (by_output @ w2.T) * (second > 0.0)
    by_first = (by_second @ w1.T) * (1.0 - first**2)
    return [
      x.T @ by_first,
      by_first.sum(axis=0),
      first.T @ by_second,
      by_second.sum(axis=0),
      second.T @ by_output,
      by_output.sum(axis=0),
    ]


def vectors(count=BATCH, size=INPUT, seed=1):
  return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def bounded_actions(count=BATCH, seed=2):
  return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, ACTIONS)).astype(np.float32)


def make_sample(seed=3, **parts) -> structures.Sample:
  """A random sample; in about a third of it the episode ends. `parts` replace some of its parts."""
  rng = np.random.default_rng(seed)
  indices = tf.range(BATCH, dtype=tf.int64)
  starts = tf.zeros([BATCH, 1], tf.bool)

  def number(*shape):
    return tf.constant(rng.normal(size=shape), tf.float32)

  sample = structures.Sample(
    leaf=indices,
    stamp=indices,
    observation=seen(number(BATCH, 1, INPUT)),
    frame_start=starts,
    action=tf.constant(rng.uniform(-1.0, 1.0, (BATCH, ACTIONS)), tf.float32),
    n_step_return=3.0 * number(BATCH),
    discount=tf.constant(0.97 * (rng.permutation(BATCH) % 3 > 0), tf.float32),
    next_observation=seen(number(BATCH, 1, INPUT)),
    next_frame_start=starts,
    weight=tf.constant(rng.uniform(0.1, 1.0, BATCH), tf.float32),
    priority=tf.ones([BATCH]),
    age=indices,
  )
  return sample._replace(
    **{
      name: part if isinstance(part, dict) else tf.constant(part, getattr(sample, name).dtype)
      for name, part in parts.items()
    }
  )


class Numbers(NamedTuple):
  """The parts of a sample that losses depend on, in float64."""

  x: np.ndarray
  a: np.ndarray
  n_step_return: np.ndarray
  discount: np.ndarray
  next_x: np.ndarray
  weight: np.ndarray


def numbers(sample) -> Numbers:
  def wide(part):
    return part.numpy().astype(np.float64)

  return Numbers(
    x=wide(sample.observation['observation'])[:, 0],
    a=wide(sample.action),
    n_step_return=wide(sample.n_step_return),
    discount=wide(sample.discount),
    next_x=wide(sample.next_observation['observation'])[:, 0],
    weight=wide(sample.weight),
  )


def targets_by_hand(sample, policy, critic):
  """G_t = R + gamma^n q(S_{t+n}, pi(S_{t+n})), by one replica's policy and another's critic."""
  of = numbers(sample)
  targets = np.zeros(len(sample.leaf))
  for k in range(len(targets)):
    x = of.next_x[k : k + 1]
    targets[k] = of.n_step_return[k] + of.discount[k] * critic.q(x, policy.pi(x))[0]
  return targets


def norm(arrays) -> float:
  """The global norm."""
  return np.sqrt(sum(np.sum(array**2) for array in arrays))


def differences(function, arrays, per_array=25, seed=4):
  """Central differences of a function of arrays: for each array, some places and their slopes."""
  step = 1e-6
  rng = np.random.default_rng(seed)
  results = []
  for array in arrays:
    places = [tuple(place) for place in rng.permutation(list(np.ndindex(*array.shape)))[:per_array]]
    slopes = []
    for place in places:
      kept = array[place]
      array[place] = kept + step
      above = function()
      array[place] = kept - step
      slopes.append((above - function()) / (2 * step))
      array[place] = kept
    results.append((places, np.array(slopes)))
  return results


def assert_slopes(gradients, slopes, tolerance=1e-4):
  """Gradients equal `differences`, within a share of each array's largest; many are not zero."""
  for gradient, (places, slope) in zip(gradients, slopes, strict=True):
    gradient = np.asarray(gradient)
    scale = np.abs(slope).max()
    assert scale > 0.0
    np.testing.assert_allclose(
      [gradient[place] for place in places], slope, rtol=0.0, atol=tolerance * scale
    )
  assert sum(np.count_nonzero(slope) for _, slope in slopes) > 60


def assert_arrays_close(ones, others, tolerance=2e-5):
  """Arrays are equal within a share of each array's largest number."""
  for one, other in zip(ones, others, strict=True):
    assert np.shape(one) == np.shape(other)
    largest = max(np.abs(other).max(), 1e-30)
    np.testing.assert_allclose(one, other, rtol=0.0, atol=tolerance * largest)


def assert_arrays_equal(ones, others):
  for one, other in zip(ones, others, strict=True):
    np.testing.assert_array_equal(one, other)


def values(variables) -> list[Any]:
  return [variable.numpy() for variable in variables]
