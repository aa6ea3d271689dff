"""The levels of DeepMind Lab that the paper uses, by name (IMPALA, tables 1 to 3 and B.1)."""

import difflib

from common import errors

_FOLDER = 'contributed/dmlab30/'

# In the order of Table B.1. Two levels have other variants for testing.
DMLAB_30 = (
  'rooms_collect_good_objects_train',
  'rooms_exploit_deferred_effects_train',
  'rooms_select_nonmatching_object',
  'rooms_watermaze',
  'rooms_keys_doors_puzzle',
  'language_select_described_object',
  'language_select_located_object',
  'language_execute_random_task',
  'language_answer_quantitative_question',
  'lasertag_one_opponent_small',
  'lasertag_three_opponents_small',
  'lasertag_one_opponent_large',
  'lasertag_three_opponents_large',
  'natlab_fixed_large_map',
  'natlab_varying_map_regrowth',
  'natlab_varying_map_randomized',
  'skymaze_irreversible_path_hard',
  'skymaze_irreversible_path_varied',
  'psychlab_arbitrary_visuomotor_mapping',
  'psychlab_continuous_recognition',
  'psychlab_sequential_comparison',
  'psychlab_visual_search',
  'explore_object_locations_small',
  'explore_object_locations_large',
  'explore_obstructed_goals_small',
  'explore_obstructed_goals_large',
  'explore_goal_locations_small',
  'explore_goal_locations_large',
  'explore_object_rewards_few',
  'explore_object_rewards_many',
)

# Section 5.2: trained one at a time there.
SINGLE_TASKS = (
  'rooms_watermaze',
  'rooms_keys_doors_puzzle',
  'lasertag_three_opponents_small',
  'explore_goal_locations_small',
  'seekavoid_arena_01',
)

SETS = {'dmlab30': DMLAB_30, 'dmlab5': SINGLE_TASKS}

# They show photographs that do not come with DeepMind Lab, or DUMMY images.
NEED_DATASET = ('psychlab_arbitrary_visuomotor_mapping', 'psychlab_continuous_recognition')
DUMMY = 'dummy'


def test_variant(task: str) -> str:
  """The level that a task is tested on."""
  return (
    f'{task.removesuffix("_train")}_test' if task.endswith('_train') and task in DMLAB_30 else task
  )


def known(level: str) -> str:
  """A level as the user writes it; one of DMLab-30 without its folder.

  Raises:
    UserError: if it looks like a slip of one of these.
  """
  level = level.removeprefix(_FOLDER)
  names = {*DMLAB_30, *map(test_variant, DMLAB_30), *SINGLE_TASKS}
  if (
    '/' not in level
    and level not in names
    and difflib.get_close_matches(level, names, n=1, cutoff=0.9)
  ):
    raise errors.unknown('level of DeepMind Lab', level, names)
  return level


def path(level: str) -> str:
  """As `deepmind_lab` names a level; those that are not of DMLab-30 are taken as they are written."""
  return _FOLDER + level if level in {*DMLAB_30, *map(test_variant, DMLAB_30)} else level
