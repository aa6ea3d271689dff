"""The levels of DeepMind Lab that the paper uses, by name (IMPALA, tables 1 to 3 and B.1)."""

import difflib

from common import errors

_FOLDER = 'contributed/dmlab30/'

# In the order of Table B.1. Levels with `_train` in their name have a variant for evaluation.
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

# Section 5.2, which trains one agent per level.
SINGLE_TASKS = (
  'rooms_watermaze',
  'rooms_keys_doors_puzzle',
  'lasertag_three_opponents_small',
  'explore_goal_locations_small',
  'seekavoid_arena_01',
)

SETS = {'dmlab30': DMLAB_30, 'dmlab5': SINGLE_TASKS}

# Levels of Psychlab whose names begin with these show photographs that do not come with DeepMind
# Lab. The value DUMMY of dmlab_dataset_path has them show images of their own instead.
_WITH_PHOTOGRAPHS = ('arbitrary_visuomotor_mapping', 'continuous_recognition', 'harlow')
DUMMY = 'dummy'


def is_psychlab(level: str) -> bool:
  """Whether it is a level of Psychlab, of DMLab-30 or not: all of them take `datasetPath`."""
  return 'psychlab' in level


def needs_photographs(level: str) -> bool:
  return is_psychlab(level) and _name(level).startswith(_WITH_PHOTOGRAPHS)


def is_held_out(level: str) -> bool:
  """Whether a level is meant for evaluation: such levels refuse to run unless told otherwise."""
  return _name(level).endswith('_test') or 'holdout' in _name(level)


def is_of_dmlab_30(level: str) -> bool:
  """Whether a level is one of the 30, or a variant for evaluation."""
  return level in _with_test_variants()


def test_variant(task: str) -> str:
  """The level that a task is evaluated on."""
  if task in DMLAB_30 and task.endswith('_train'):
    return f'{task.removesuffix("_train")}_test'
  return task


def known(level: str) -> str:
  """The name that this code uses for a level: one of DMLab-30 loses its folder.

  Args:
    level: As the user writes it. Other levels of DeepMind Lab are accepted as they are.

  Raises:
    UserError: If it looks like a misspelled level of this module.
  """
  level = level.removeprefix(_FOLDER)
  names = {*_with_test_variants(), *SINGLE_TASKS}
  is_bare = '/' not in level and level not in names
  if is_bare and difflib.get_close_matches(level, names, n=1, cutoff=0.9):
    raise errors.unknown('level of DeepMind Lab', level, names)
  return level


def is_listed(level: str) -> bool:
  """Whether a level is one of this module's, and no path that DeepMind Lab would look for."""
  return level.removeprefix(_FOLDER) in {*_with_test_variants(), *SINGLE_TASKS}


def path(level: str) -> str:
  """The path of a level in `deepmind_lab`; levels outside DMLab-30 are paths already."""
  return _FOLDER + level if is_of_dmlab_30(level) else level


def _name(level: str) -> str:
  """A level's name without folders and, in DMLab-30, without its family."""
  return level.rpartition('/')[2].removeprefix('psychlab_')


def _with_test_variants() -> set[str]:
  return {*DMLAB_30, *map(test_variant, DMLAB_30)}
