"""How an actor chooses its actions: with parameters of its own, or in batches across all actors."""

from typing import Any, Callable, NamedTuple, Protocol, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from common.distributed import link as links
from common.distributed import parameters, wire
from common.environments import suite as suites
from impala import networks, trajectory


class Decision(NamedTuple):
  """One step's actions int32 `[N]`, logits float32 `[N, A]`, and the core state after it."""

  actions: tf.Tensor
  logits: tf.Tensor
  core_state: Any


class Policy(Protocol):
  """What an actor asks of a policy."""

  def refresh(self) -> int:
    """Takes the latest parameters; returns their version. Called at the start of every unroll."""

  def initial_state(self, batch_size: int) -> Any:
    """The core state to start with."""

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    """Chooses actions for N environments: inputs `[N, ...]`, observations as the environment gives them."""


def decide(
  agent: networks.Agent,
  suite: suites.Suite,
  inputs: networks.AgentInput,
  core_state: Any,
  seed: int,
) -> Decision:
  """One step of the agent for `[N, ...]` inputs, actions drawn from its softmax."""
  inputs = inputs._replace(observation=trajectory.agent_observation(suite, inputs.observation))
  output, core_state = agent.unroll(
    tf.nest.map_structure(lambda x: x[tf.newaxis], inputs), core_state
  )
  logits = output.policy_logits[0]
  actions = tfp.distributions.Categorical(logits=logits).sample(seed=seed)
  return Decision(actions, logits, core_state)


def traced_decide(agent: networks.Agent, suite: suites.Suite, seed: int) -> Callable[..., Decision]:
  """`decide` as one graph for any number of environments, already run once (see `impala.run.Run.start` for why)."""
  example = example_inputs(suite, 1), agent.initial_state(1)
  signature = tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), example)
  traced = tf.function(
    lambda inputs, core_state: decide(agent, suite, inputs, core_state, seed),
    input_signature=signature,
  )
  traced(*example)
  return traced


def example_inputs(suite: suites.Suite, count: int) -> networks.AgentInput:
  """Zeros in the shape of what `count` environments show."""
  observation = {
    name: tf.zeros((count, *space.shape), tf.as_dtype(space.dtype))
    for name, space in suite.observation_space.spaces.items()
  }
  return networks.AgentInput(
    observation, tf.zeros([count], tf.int32), tf.zeros([count]), tf.zeros([count], tf.bool)
  )


class LocalPolicy:
  """Acts with a copy of the parameters, taken from the store at the start of an unroll and kept throughout it."""

  def __init__(
    self, agent: networks.Agent, suite: suites.Suite, store: parameters.Source, seed: int
  ):
    self.initial_state = agent.initial_state
    self._decide = traced_decide(agent, suite, seed)
    self._copy = parameters.ParameterCopy(agent.trainable_variables, store)

  def refresh(self) -> int:
    return self._copy.refresh()

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    with tf.device('/cpu:0'):
      return self._decide(inputs, core_state)


class DynamicBatchingPolicy:
  """One policy for all actors, evaluated on the learner's own parameters in batches of whoever waits.

  This is the single-machine setting of Table 1 ("dyn. batch"). Parameters may change within an unroll.
  """

  def __init__(
    self,
    agent: networks.Agent,
    suite: suites.Suite,
    version: Callable[[], int],
    example: Any,
    max_batch_size: int,
    timeout_ms: float,
    seed: int,
  ):
    """`example`: inputs and core state of any number of environments, for tracing before the actors' threads start."""
    self._version, self.initial_state = version, agent.initial_state

    @tf.nondifferentiable_batch_function(
      num_batch_threads=1,
      max_batch_size=max_batch_size,
      batch_timeout_micros=int(1000 * timeout_ms),
      allowed_batch_sizes=None,
      max_enqueued_batches=64,
    )
    def batched(*flat):
      inputs, core_state = tf.nest.pack_sequence_as(example, flat)
      return tf.nest.flatten(decide(agent, suite, inputs, core_state, seed))

    structure = decide(agent, suite, *example, seed)
    # The leading dimension is unknown when traced: a call of any number of environments joins any batch.
    signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in tf.nest.flatten(example)]
    self._decide = tf.function(
      lambda *flat: tf.nest.pack_sequence_as(structure, batched(*flat)), input_signature=signature
    )
    self._decide(*tf.nest.flatten(example))

  def refresh(self) -> int:
    return self._version()

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    return self.decide_flat(tf.nest.flatten((inputs, core_state)))

  def decide_flat(self, fields: Sequence[tf.Tensor]) -> Decision:
    """The same for flat inputs and core state; also to be called inside a `tf.function`."""
    return self._decide(*fields)


class CentralPolicy:
  """Of an actor that holds no parameters: the learner's `DynamicBatchingPolicy` decides, over the wire."""

  def __init__(
    self,
    link: links.Link,
    inputs: wire.Codec,
    outputs: wire.Codec,
    core_state: Callable[[int], Any],
  ):
    """`inputs` and `outputs`: of `central_codecs`. `core_state`: the one to start with, for N environments."""
    self._link, self._inputs, self._outputs, self.initial_state = link, inputs, outputs, core_state
    self._version = 0  # Before the first answer.

  def refresh(self) -> int:
    self._link.begin()
    return self._version

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    self._version, decided = self._link.infer(self._inputs.encode((inputs, core_state)))
    return tf.nest.map_structure(tf.constant, self._outputs.pack(self._outputs.decode(decided)))


def central_codecs(suite: suites.Suite, core_state: Any) -> tuple[wire.Codec, wire.Codec]:
  """Of a step's inputs with the core state, and of its `Decision`; `core_state` of any number of environments."""
  of_one = lambda x: tf.TensorSpec(x.shape[1:], x.dtype)
  inputs = tf.nest.map_structure(of_one, (example_inputs(suite, 1), core_state))
  state = tf.nest.map_structure(of_one, core_state)
  outputs = Decision(
    tf.TensorSpec([], tf.int32), tf.TensorSpec([suite.num_actions], tf.float32), state
  )
  bounds = {
    f'0.observation.{name}': limits for name, limits in suites.integer_bounds(suite).items()
  }
  return wire.Codec(inputs, {**bounds, '0.last_action': (0, suite.num_actions - 1)}), wire.Codec(
    outputs, {}
  )
