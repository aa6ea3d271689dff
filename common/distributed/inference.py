"""Acting at the learner: it decides for remote actors, which then hold no parameters."""

from typing import Any, Callable, NamedTuple, Sequence

import tensorflow as tf

from common.distributed import graphs, traffic, wire
from common.distributed import roster as rosters


class Inference(NamedTuple):
  """How the learner acts for its actors."""

  inputs: wire.Codec  # For what an environment shows, and the core state.
  outputs: wire.Codec  # For the decision: action, logits and next core state.
  decide: Callable[[Any], Any]  # Flat inputs `[N, ...]` to flat outputs `[N, ...]`; batches actors.
  version: Callable[[], int]  # The version of the parameters in use.


class Service:
  """Answers requests for decisions."""

  def __init__(self, inference: Inference, roster: rosters.Roster, counts: traffic.Traffic):
    """`counts`: counts `bytes`."""
    self._inference = inference
    self._roster = roster
    self._counts = counts

  def graph(self) -> tf.types.experimental.PolymorphicFunction:
    """The server's function `infer`: from header and inputs to answer and outputs, strings `[]`."""
    inputs = self._inference.inputs
    receive = self._counts.guarded('request for actions', self._receive, (False, *inputs.nothing()))

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)] * 2, autograph=False)
    def infer(header: tf.Tensor, payload: tf.Tensor) -> list[tf.Tensor]:
      answer, is_good, fields = graphs.received(receive, inputs, header, payload)

      def decide() -> list[tf.Tensor]:
        outputs = self._inference.decide(fields)
        return tf.numpy_function(self._encode, outputs, [tf.string] * 2)

      results = tf.cond(is_good, decide, lambda: [answer, tf.constant('')])
      return [tf.ensure_shape(result, []) for result in results]

    return infer

  def _receive(self, header: bytes, payload: bytes) -> Sequence[Any]:
    """Decodes inputs, as `graphs.received` asks for them. Raises Unknown or Malformed."""
    self._roster.find(wire.from_json(header, {'session': str})['session'])
    wire.check_bytes(payload)
    self._counts.add('bytes', len(payload))
    return b'', True, *self._inference.inputs.decode(payload)

  def _encode(self, *outputs: Any) -> Sequence[bytes]:
    answer = wire.to_json(state='decided', version=self._inference.version())
    return answer, self._inference.outputs.encode(outputs)
