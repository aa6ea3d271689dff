"""Counts the floating point operations of graphs, and measures how many the machine can do."""

import math
import time

import tensorflow as tf

# In a product of large matrices, which is what a processor does fastest.
_MATRIX = 2048
_PRODUCTS = 5


def of_graph(graph: tf.Graph) -> int:
  """Floating point operations of a graph's products: an addition and a multiplication each.

  Those of matrices, convolutions and fused LSTMs, with their gradients; all else is a few
  operations a number. Products of unknown size are left out: those of instructions, of which a
  batch has few different ones.

  Raises:
    ValueError: If the graph has a loop: nobody knows how often it runs.
  """
  return sum(map(_of_operation, graph.get_operations()))


def peak() -> float:
  """Operations a second of one core, in products of large float32 matrices."""
  left = tf.random.uniform([_MATRIX, _MATRIX])
  right = tf.random.uniform([_MATRIX, _MATRIX])
  seconds = []
  for _ in range(_PRODUCTS):
    started = time.process_time()
    with tf.device('/cpu:0'):
      tf.matmul(left, right)[0, 0].numpy()
    # CPU time: it does not matter how many threads share the work.
    seconds.append(time.process_time() - started)
  return 2 * _MATRIX**3 / min(seconds)


def _of_operation(operation: tf.Operation) -> int:
  inputs = [tuple(tensor.shape) for tensor in operation.inputs]
  outputs = [tuple(tensor.shape) for tensor in operation.outputs]
  match operation.type:
    case 'While' | 'StatelessWhile':
      raise ValueError(f'{operation.name} is a loop: nobody knows how often it runs')
    case 'MatMul' | 'BatchMatMulV2':
      left = inputs[0]
      is_turned = operation.get_attr('transpose_a' if operation.type == 'MatMul' else 'adj_x')
      # Each output is a sum over the axis that the two have in common.
      return _products(outputs[0], left[-2 if is_turned else -1])
    case 'Conv2D':
      return _products(outputs[0], *inputs[1][:3])
    case 'Conv2DBackpropInput':
      # As many as forwards: one for each number out, and each weight that led to it.
      return _products(inputs[2], *inputs[1][:3])
    case 'Conv2DBackpropFilter':
      return _products(inputs[2], *outputs[0][:3])
    case 'BlockLSTM' | 'BlockLSTMGrad':
      # Inputs [T, B, D] and states [T, B, H] by weights [D + H, 4 H]; backwards, by both factors.
      backwards = 1 if operation.type == 'BlockLSTM' else 2
      return backwards * _products(inputs[1][:2], inputs[4])
  return 0


def _products(*sizes: object) -> int:
  """Twice the product of sizes, some of which are shapes; 0 if one is unknown."""
  flat = tf.nest.flatten(sizes)
  return 0 if None in flat else 2 * math.prod(flat)
