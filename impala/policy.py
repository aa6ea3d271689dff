"""How an actor chooses its actions: with parameters of its own, or in batches with other actors."""

import itertools
from typing import Any, Callable, NamedTuple, Protocol, Sequence

import numpy as np
import tensorflow as tf

from common import errors, lean_graph
from common.distributed import link as links
from common.distributed import parameters, wire
from common.environments import suite as suites
from impala import actions as acting
from impala import networks, trajectory

# Numbers the batched policies of this process.
_BATCHED_POLICIES = itertools.count()


class Decision(NamedTuple):
  """One step's decision for N environments.

  Attributes:
    actions: int32 `[N]`, or `[N, K]` for K at once; drawn from the softmax of the logits.
    logits: float32 `[N, A]`, of the behaviour policy mu.
    core_state: The core state after the step, `[N, H]`.
  """

  actions: tf.Tensor
  logits: tf.Tensor
  core_state: Any


class Policy(Protocol):
  """What an actor needs of a policy."""

  def refresh(self) -> int:
    """Takes the latest parameters; returns their version. Called at the start of every unroll."""

  def initial_state(self, batch_size: int) -> Any:
    """The core state at the start of a run, `[batch_size, H]`."""

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    """Chooses actions for N environments.

    Args:
      inputs: `[N, ...]`, observations as the environment gives them.
      core_state: The core state before the step, `[N, H]`.
    """


def decide(
  agent: networks.Agent,
  suite: suites.Suite,
  inputs: networks.AgentInput,
  core_state: Any,
  seed: int | None,
) -> Decision:
  """One step of the agent, with actions drawn from its softmax.

  Args:
    agent: The network.
    suite: The environments.
    inputs: `[N, ...]`, observations as the environment gives them.
    core_state: The core state before the step, `[N, H]`.
    seed: The seed of the draws; None to take the most likely actions instead.
  """
  inputs = inputs._replace(observation=trajectory.agent_observation(suite, inputs.observation))
  logits, core_state = agent.step(inputs, core_state)  # [N, A]
  sizes = acting.sizes_of(suite.action_space)
  if seed is None:
    actions = acting.most_likely(logits, sizes)
  else:
    actions = acting.sample(logits, sizes, seed)
  return Decision(actions=actions, logits=logits, core_state=core_state)


def traced_decide(
  agent: networks.Agent, suite: suites.Suite, seed: int | None
) -> lean_graph.LeanGraph:
  """`decide` of inputs and core state as one graph, for any number of environments.

  The graph has been run once, so that TensorFlow has optimised it before environments start: see
  `impala.run.Run.start`.
  """

  def decide_with_agent(inputs: networks.AgentInput, core_state: Any) -> Decision:
    return decide(agent, suite, inputs, core_state, seed)

  return lean_graph.LeanGraph(decide_with_agent, example_inputs(suite, 1), agent.initial_state(1))


def example_inputs(suite: suites.Suite, count: int) -> networks.AgentInput:
  """Zeros `[count, ...]` in the shapes of what `count` environments show."""
  return networks.zeros(suite.observation_space, suite.action_space, leading=(count,))


class LocalPolicy:
  """Acts on the CPU with its own copy of the parameters, kept for a whole unroll."""

  def __init__(
    self, agent: networks.Agent, suite: suites.Suite, source: parameters.Source, seed: int
  ):
    """Takes the source's parameters and traces the graph.

    Args:
      agent: This policy's network, whose variables become the copy.
      suite: The environments.
      source: Where parameters are taken from at the start of every unroll.
      seed: The seed of the actions drawn.
    """
    self._agent = agent
    self._decide = traced_decide(agent, suite, seed)
    self._copy = parameters.ParameterCopy(parameters.published(agent), source)

  def initial_state(self, batch_size: int) -> Any:
    return self._agent.initial_state(batch_size)

  def refresh(self) -> int:
    return self._copy.refresh()

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    # As in the paper, actors run on the CPU, also where the learner has a GPU.
    with tf.device('/cpu:0'):
      return self._decide(inputs, core_state)


class DynamicBatchingPolicy:
  """One policy for all actors: concurrent calls are evaluated as one batch.

  This is the single-machine setting of Table 1 ("dyn. batch"). It reads the learner's own
  variables, so parameters may change within an unroll.
  """

  def __init__(
    self,
    agent: networks.Agent,
    suite: suites.Suite,
    version: Callable[[], int],
    max_batch_size: int,
    timeout_ms: float,
    seed: int,
  ):
    """Traces the graph, before any thread of an actor starts.

    Args:
      agent: The learner's network.
      suite: The environments.
      version: Returns the learner's updates so far.
      max_batch_size: Environments whose steps make a batch full.
      timeout_ms: How long an incomplete batch waits for more.
      seed: The seed of the actions drawn.
    """
    self._agent = agent
    self._version = version

    def decide_with_agent(inputs: networks.AgentInput, core_state: Any) -> Decision:
      return decide(agent, suite, inputs, core_state, seed)

    example = (example_inputs(suite, 1), agent.initial_state(1))
    self._decide = _batched(decide_with_agent, example, max_batch_size, timeout_ms)
    # One call now, so that the graph is optimised before environments start: see `Run.start`.
    self.decide_flat(tf.nest.flatten(example))

  def initial_state(self, batch_size: int) -> Any:
    return self._agent.initial_state(batch_size)

  def refresh(self) -> int:
    """The version of the learner's parameters: there is no copy to refresh."""
    return self._version()

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    return self.decide_flat(tf.nest.flatten((inputs, core_state)))

  def decide_flat(self, fields: Sequence[tf.Tensor]) -> Decision:
    """Decides for the flat tensors of inputs and core state; may be called in a `tf.function`."""
    return self._decide(*fields)


def _batched(
  function: Callable[..., Any], example: tuple[Any, ...], max_batch_size: int, timeout_ms: float
) -> Callable[..., Any]:
  """A `function` of tensors `[N, ...]` whose concurrent calls are evaluated as one batch.

  Args:
    function: Takes and returns nested tensors `[N, ...]`.
    example: Its arguments, for any N.
    max_batch_size: The largest sum of the N of one batch.
    timeout_ms: How long an incomplete batch waits for more.

  Returns:
    A function of the arguments' flat tensors. It blocks until its batch has been evaluated.
  """
  # An eager call, for the structure of the result.
  result = function(*example)

  # Takes and returns flat tensors only. Batches are evaluated one after another: they would compete
  # for the same device, and the next one fills up meanwhile.
  @tf.nondifferentiable_batch_function(
    autograph=False,
    num_batch_threads=1,
    max_batch_size=max_batch_size,
    batch_timeout_micros=int(1000 * timeout_ms),
    allowed_batch_sizes=None,
    max_enqueued_batches=64,
  )
  def evaluate_batch(*flat: tf.Tensor) -> list[tf.Tensor]:
    arguments = tf.nest.pack_sequence_as(example, flat)
    return tf.nest.flatten(function(*arguments))

  # N is unknown when traced, so that a call for any number of environments joins any batch.
  @tf.function(input_signature=lean_graph.of_any_count(tf.nest.flatten(example)), autograph=False)
  def call(*flat: tf.Tensor) -> Any:
    # TensorFlow finds a batch's queue by the operation's name. Policies of one process that shared
    # a name would share the first one's queue, and its largest batch.
    with tf.name_scope(f'policy_{next(_BATCHED_POLICIES)}'):
      return tf.nest.pack_sequence_as(result, evaluate_batch(*flat))

  return call


class CentralPolicy:
  """Asks the learner's `DynamicBatchingPolicy` over the wire, for actors without parameters."""

  def __init__(
    self,
    link: links.Link,
    inputs: wire.Codec,
    outputs: wire.Codec,
    core_state: Callable[[int], Any],
  ):
    """Sends nothing yet.

    Args:
      link: The connection to the learner.
      inputs: The first of `central_codecs`.
      outputs: The second of `central_codecs`.
      core_state: Returns the core state to start N environments with.
    """
    self._link = link
    self._inputs = inputs
    self._outputs = outputs
    self._core_state = core_state
    # The version of the latest answer's parameters; 0 before a learner's first.
    self._version = 0
    self._welcome = link.welcome

  def initial_state(self, batch_size: int) -> Any:
    return self._core_state(batch_size)

  def refresh(self) -> int:
    """Begins an unroll at the learner; returns the version of the latest answer's parameters."""
    self._link.begin()
    if self._link.welcome is not self._welcome:
      # A learner that came back may be at an earlier version than the one that answered last.
      self._welcome = self._link.welcome
      self._version = 0
    return self._version

  def __call__(self, inputs: networks.AgentInput, core_state: Any) -> Decision:
    """Asks the learner. Raises UserError if it refuses, or answers oddly."""
    request = self._inputs.encode((inputs, core_state))
    self._version, answer = self._link.infer(request)
    decision = self._outputs.pack(self._decoded(answer, len(inputs.done)))
    return tf.nest.map_structure(tf.constant, decision)

  def _decoded(self, answer: bytes, count: int) -> list[np.ndarray]:
    """The flat fields of `count` decisions. Raises UserError if the learner sent something else."""
    try:
      fields = self._outputs.decode(answer)
      found = len(fields[0])
      if found != count:
        raise wire.Malformed(f'{found} decisions, expected {count}')
    except wire.Malformed as error:
      raise errors.UserError(
        f'the learner decides oddly: {error}. Do both run the same code and environment?'
      ) from error
    return fields


def central_codecs(suite: suites.Suite, core_state: Any) -> tuple[wire.Codec, wire.Codec]:
  """The codecs of a `CentralPolicy`'s requests and answers.

  Args:
    suite: The environments.
    core_state: A core state `[N, H]` for any N, for its shapes.

  Returns:
    The codec of one environment's inputs and core state, and that of its `Decision`.
  """

  def of_one(x: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(x.shape[1:], x.dtype)

  state = tf.nest.map_structure(of_one, core_state)
  inputs = tf.nest.map_structure(of_one, example_inputs(suite, 1))
  decision = Decision(
    actions=tf.TensorSpec(acting.shape_of(suite.action_space), tf.int32),
    logits=tf.TensorSpec([acting.num_logits(suite.action_space)], tf.float32),
    core_state=state,
  )
  # Paths start with the index into the tuple (inputs, state).
  bounds = wire.magnitudes((inputs, state))
  for name, integers in suites.integer_bounds(suite).items():
    bounds[f'0.observation.{name}'] = integers
  legal = acting.bounds(suite.action_space)
  bounds['0.last_action'] = legal
  return wire.Codec((inputs, state), bounds), wire.Codec(decision, {'actions': legal})
