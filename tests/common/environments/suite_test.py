"""Instructions as buckets, and which environment plays which task."""

import collections

import numpy as np
import pytest

from common.environments import doom, suite


def test_words_become_buckets_padded_with_minus_one():
  hashed = suite.hash_words('shoot the monster')
  assert hashed.dtype == np.int32
  assert hashed.shape == (suite.MAX_WORDS,)
  assert np.all((hashed[:3] >= 0) & (hashed[:3] < suite.INSTRUCTION_BUCKETS))
  assert np.all(hashed[3:] == -1)


def test_a_word_has_the_same_bucket_at_every_place():
  first = suite.hash_words('shoot the monster')
  second = suite.hash_words('the  monster\nshoot the door')
  assert second[0] == second[3] == first[1]
  assert second[1] == first[2]
  assert second[2] == first[0]
  assert len(set(first[:3])) == 3


def test_buckets_do_not_depend_on_the_process():
  """As Python's own `hash` of text does: actors in other processes would disagree."""
  # CRC-32 of '123456789' is the check value 0xCBF43926 of its definition.
  assert suite.hash_words('123456789')[0] == 0xCBF43926 % suite.INSTRUCTION_BUCKETS


def test_an_instruction_without_words():
  for instruction in ('', ' \n '):
    np.testing.assert_array_equal(suite.hash_words(instruction), np.full(suite.MAX_WORDS, -1))


def test_a_full_instruction():
  assert np.all(suite.hash_words('word ' * suite.MAX_WORDS) >= 0)


def test_words_beyond_the_room_are_left_out():
  words = [f'word{i}' for i in range(suite.MAX_WORDS + 3)]
  kept = words[: suite.MAX_WORDS]
  np.testing.assert_array_equal(suite.hash_words(' '.join(words)), suite.hash_words(' '.join(kept)))


def test_every_doom_task_has_its_own_instruction():
  hashed = {task: tuple(suite.hash_words(text)) for task, text in doom.INSTRUCTIONS.items()}
  assert len(set(hashed.values())) == len(hashed) == 10


def test_a_hashed_instruction_is_in_the_observation_space():
  space = suite.pixels_and_instruction(4, 6)
  assert space['observation'].shape == (4, 6, 3)
  for text in doom.INSTRUCTIONS.values():
    assert space['instruction'].contains(suite.hash_words(text))


def test_last_observations_have_all_parts_of_the_episodes_that_were_cut():
  last = [
    None,
    {'observation': np.zeros(2), 'vector': np.ones(1)},
    None,
    {'observation': np.ones(2), 'vector': np.zeros(1)},
  ]
  final = suite.final_observations({'final_obs': np.array(last)}, np.array([3, 1]))
  np.testing.assert_array_equal(final['observation'], [[1, 1], [0, 0]])
  np.testing.assert_array_equal(final['vector'], [[0], [1]])


@pytest.mark.parametrize('actors, each', [(2, 6), (4, 6), (1, 3), (5, 3), (2, 3)])
def test_tasks_are_assigned_in_turn_and_equally_across_actors(actors, each):
  tasks = ['c', 'a', 'b']
  given = [suite.assign(tasks, actor, actors, each) for actor in range(actors)]
  assert set(collections.Counter(sum(given, [])).values()) == {actors * each // 3}
  for names in given:
    assert len(names) == each
    assert names == sorted(names, key=tasks.index)  # Environments of one task stand together.
    assert len(set(names)) == min(each, 3)


@pytest.mark.parametrize('actors', [3, 6])
def test_as_many_actors_as_tasks_keep_to_one_each(actors):
  given = [suite.assign(['c', 'a', 'b'], actor, actors, 4) for actor in range(actors)]
  assert given == [[task] * 4 for task in ['c', 'a', 'b'] * (actors // 3)]
