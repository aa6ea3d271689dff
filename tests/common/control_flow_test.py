"""Conditions in graphs; and no graph is converted by AutoGraph."""

import ast

import pytest
import tensorflow as tf

from common import control_flow
from tests.common import programs


@pytest.mark.parametrize('in_graph', [False, True])
@pytest.mark.parametrize('holds', [False, True])
def test_variables_change_only_if_the_condition_holds(holds, in_graph):
  variable = tf.Variable(1)

  def change(condition):
    control_flow.do_if(condition, lambda: variable.assign_add(41))
    return tf.identity(variable)

  change = tf.function(change, autograph=False) if in_graph else change
  assert int(change(tf.constant(holds))) == int(variable) == (42 if holds else 1)


def converted(tree):
  """The lines that use `tf.function` or its like with AutoGraph."""
  without = {
    node.func
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and 'autograph=False' in map(ast.unparse, node.keywords)
  }
  names = ('tf.function', 'tf.nondifferentiable_batch_function')
  return [
    node.lineno
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and node not in without and ast.unparse(node) in names
  ]


def test_no_graph_is_converted_by_autograph():
  rooms = ('common', 'impala', 'apex')
  paths = [path for room in rooms for path in (programs.ROOT / room).rglob('*.py')]
  found = {str(path): converted(ast.parse(path.read_text())) for path in paths}
  assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize('source', ['f = tf.function(g)', '@tf.function\ndef f(): pass'])
def test_what_autograph_converts_is_found(source):
  assert converted(ast.parse(source))
