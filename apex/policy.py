"""How an actor values its actions: with a copy of the parameters that it pulls now and then."""

from typing import Callable

import numpy as np
import tensorflow as tf

from apex import config as configs, dqn
from common import frames
from common.distributed import parameters
from common.environments import suite as suites


def traced_q_values(network: dqn.DuelingNetwork, suite: suites.Suite) -> Callable[[np.ndarray], tf.Tensor]:
  """The network as one graph for observations `[N, ...]` as environments give them, already run once.

  See `apex.run.Run.start` for why.
  """
  space = suite.observation_space['observation']
  spec = tf.TensorSpec([None, *space.shape], tf.as_dtype(space.dtype))
  traced = tf.function(
      lambda x: network(frames.channels(x) if suite.frame_stack > 1 else x), input_signature=[spec])
  traced(tf.zeros([1, *space.shape], spec.dtype))
  return traced


def make(config: configs.Config, suite: suites.Suite, store: parameters.ParameterStore) -> 'Policy':
  """An actor's policy, on the CPU, as in the paper."""
  with tf.device('/cpu:0'):
    return Policy(dqn.make_network(suite, config.torso, config.hidden_size), suite, store)


class Policy:
  """Q-values by the actor's own copy of the parameters."""

  def __init__(self, network: dqn.DuelingNetwork, suite: suites.Suite, store: parameters.ParameterStore):
    self._q_values = traced_q_values(network, suite)
    self._copy = parameters.ParameterCopy(network.trainable_variables, store)

  def refresh(self) -> int:
    """Takes the latest parameters; returns their version."""
    with tf.device('/cpu:0'):
      return self._copy.refresh()

  def __call__(self, observation: np.ndarray) -> np.ndarray:
    """q-values float32 `[N, A]` for observations `[N, ...]` as the environment gives them."""
    with tf.device('/cpu:0'):
      return self._q_values(observation).numpy()
