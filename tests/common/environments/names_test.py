"""Names of environments and tasks on the command line, and the messages for unknown ones."""

import contextlib
import pathlib
import sys

import pytest

from common import environments, errors
from common.environments import atari, doom, levels

STAND_INS = pathlib.Path(__file__).parents[2] / 'stand_ins'


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
  """Puts the stand-in for `deepmind_lab` on the path."""
  monkeypatch.syspath_prepend(str(STAND_INS))


def tasks(name, chosen='', **others):
  return environments.load(name, environments.Options(tasks=chosen, **others)).tasks


def refusal(name, chosen=''):
  with pytest.raises(errors.UserError) as refused:
    tasks(name, chosen)
  return str(refused.value)


@pytest.mark.parametrize(
  'name, all_tasks',
  [
    ('doom', tuple(doom.INSTRUCTIONS)),
    ('atari57', atari.ATARI_57),
    ('dmlab5', levels.SINGLE_TASKS),
  ],
)
def test_a_suite_has_all_of_its_tasks_unless_some_are_named(name, all_tasks):
  assert tasks(name) == all_tasks == tasks(name, '') == tasks(name, ' , ')


def test_dmlab_30_has_all_levels_with_dummy_images():
  assert tasks('dmlab30', dmlab_dataset_path='dummy') == levels.DMLAB_30


@pytest.mark.parametrize(
  'name, chosen, expected',
  [
    ('doom', 'basic', ('basic',)),
    ('doom', 'predict_position,basic', ('basic', 'predict_position')),
    ('doom', ' basic , predict_position ', ('basic', 'predict_position')),
    ('doom', 'basic,basic,', ('basic',)),
    ('atari57', 'pong,breakout', ('breakout', 'pong')),
    (
      'dmlab30',
      'rooms_watermaze,rooms_keys_doors_puzzle',
      ('rooms_watermaze', 'rooms_keys_doors_puzzle'),
    ),
    ('dmlab5', 'seekavoid_arena_01', ('seekavoid_arena_01',)),
    ('doom:basic', 'basic', ('basic',)),
    ('atari:pong', 'pong', ('pong',)),
    ('dmlab:rooms_watermaze', 'rooms_watermaze', ('rooms_watermaze',)),
    ('gym:CartPole-v1', 'CartPole-v1', ('CartPole-v1',)),
    ('control:cartpole-swingup', 'cartpole-swingup', ('cartpole-swingup',)),
  ],
)
def test_some_tasks_are_taken_in_the_suite_s_order(name, chosen, expected):
  """The same tasks are the same suite, in whatever order they are written."""
  suite = environments.load(name, environments.Options(tasks=chosen))
  assert suite.tasks == expected and suite.name == name


def test_chosen_tasks_are_made():
  suite = environments.load('atari57', environments.Options(tasks='pong,breakout'))
  assert suite.num_actions == 18 and suite.references == 'atari57'
  with contextlib.closing(suite.make(suite.tasks, True)) as environment:
    assert environment.num_envs == 2


@pytest.mark.parametrize(
  'name, chosen, unknown, near',
  [
    ('doom', 'basic,predict_positon', 'predict_positon', 'predict_position'),
    ('atari57', 'pongg', 'pongg', 'pong'),
    ('atari57', 'space-invaders', 'space-invaders', 'space_invaders'),
    ('dmlab30', 'room_watermaze', 'room_watermaze', 'rooms_watermaze'),
    ('dmlab5', 'seekavoid_arena', 'seekavoid_arena', 'seekavoid_arena_01'),
    ('atari:pong', 'pnog', 'pnog', 'pong'),
    ('doom:basic', 'basics', 'basics', 'basic'),
    ('dmlab:rooms_watermaze', 'room_watermaze', 'room_watermaze', 'rooms_watermaze'),
    ('gym:CartPole-v1', 'CartPole', 'CartPole', 'CartPole-v1'),
    ('control:cartpole-swingup', 'cartpole-swing', 'cartpole-swing', 'cartpole-swingup'),
  ],
)
def test_an_unknown_task_is_refused_with_the_nearest(name, chosen, unknown, near):
  text = refusal(name, chosen)
  assert f'unknown task of {name} {unknown!r}. Did you mean' in text
  assert near in text.partition('Did you mean')[2]


def test_a_task_of_another_suite_is_refused_with_the_known_ones():
  text = refusal('doom:basic', 'rooms_watermaze')
  assert "unknown task of doom:basic 'rooms_watermaze'. Known: basic." in text


@pytest.mark.parametrize(
  'name, form, instead',
  [
    ('atari57:pong', 'atari:GAME', '--env=atari57 --tasks=pong'),
    ('dmlab30:rooms_watermaze', 'dmlab:LEVEL', '--env=dmlab30 --tasks=rooms_watermaze'),
    ('dmlab5:rooms_watermaze', 'dmlab:LEVEL', '--env=dmlab5 --tasks=rooms_watermaze'),
  ],
)
def test_a_suite_with_a_member_is_refused_with_the_right_form(name, form, instead):
  text = refusal(name)
  assert repr(name) in text and form in text and instead in text
  suite, *chosen = (word.partition('=')[2] for word in instead.split())
  assert tasks(suite, *chosen) == tuple(chosen)  # The advice works.


@pytest.mark.parametrize(
  'name, near',
  [
    ('atari75', 'atari57'),
    ('dmlab-30', 'dmlab30'),
    ('dmlab03', 'dmlab30'),
    ('dom', 'doom'),
    ('atri:pong', 'atari:pong'),
    ('contrl:cartpole-swingup', 'control:cartpole-swingup'),
    ('gm:CartPole-v1', 'gym:CartPole-v1'),
    ('doom:basics', 'basic'),
    ('atari:pnog', 'pong'),
    ('gym:CartPole-v7', 'CartPole-v1'),
    ('dmlab:', 'dmlab'),
    ('atari', 'Write it as in atari:pong'),
    ('control', 'Write it as in control:humanoid-walk'),
  ],
)
def test_an_unknown_environment_is_refused_with_the_nearest(name, near):
  text = refusal(name)
  assert 'unknown' in text and near in text


def test_a_family_whose_package_is_missing_is_refused_and_suggests_nothing(monkeypatch):
  monkeypatch.setitem(sys.modules, 'common.environments.doom', None)
  assert 'doom:basic needs the package' in refusal('doom:basic')
  assert 'Did you mean atari:pong' in refusal('atri:pong')


def test_names_in_the_list_of_environments_exist():
  """Each line of --help begins with a name, or the form of one."""
  described = environments.describe()
  for name in ('doom', 'atari57', 'dmlab30', 'dmlab5'):
    assert f'\n  {name} ' in f'\n{described}'
    assert len(tasks(name, dmlab_dataset_path='dummy')) > 1
  forms = ('doom:SCENARIO', 'atari:GAME', 'dmlab:LEVEL', 'control:TASK', 'envpool:ID', 'gym:ID')
  for form in forms:
    assert f'\n  {form} ' in f'\n{described}'
  assert '--tasks=A,B' in described
