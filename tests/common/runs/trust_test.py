"""A learner decides what is trained, not what runs or is read on the machines of its actors."""

import dataclasses
import sys

import gymnasium
import pytest

from apex import system as apex
from common import errors
from common.config import command_line
from common.distributed import cluster, membership
from common.machine import version
from common.runs import trust
from impala import system as impala
from tests.common import programs

SYSTEMS = {'impala': impala.IMPALA, 'apex': apex.APEX}
OWN_MODULE = 'gym:some_module:Chase-v0'


@pytest.fixture(params=list(SYSTEMS))
def system(request):
  return SYSTEMS[request.param]


def settings_of(system, **changes):
  """What a learner of CartPole sends, with some values replaced."""
  return {**dataclasses.asdict(system.presets.preset('gym')), **changes}


def command(system, *arguments):
  """This process's settings, and which of them are on its command line."""
  config, options = command_line.parse(
    ['train', *arguments], '', system.presets, system.switches, cluster.define_flags
  )
  return config, options.asked


def taken(system, *arguments, **changes):
  """What a process with this command line takes of a learner's settings."""
  return trust.of_learner(system, settings_of(system, **changes), *command(system, *arguments))


def refused(system, *arguments, **changes):
  """The message to the user, which must be a single line."""
  with pytest.raises(errors.UserError) as told:
    taken(system, *arguments, **changes)
  message = str(told.value)
  assert message.isprintable() and len(message) < 1000
  return message


def test_settings_are_the_learners(system):
  config = taken(system, batch_size=17, seed=5)
  assert (config.env, config.batch_size, config.seed) == ('gym:CartPole-v1', 17, 5)


def test_paths_and_what_else_depends_on_the_machine_are_ones_own(system):
  theirs = {'dmlab_level_cache': '/etc', 'dmlab_dataset_path': '/etc', 'dmlab_level_cache_gb': 1e9}
  config = taken(system, **theirs)
  own, _ = command(system)
  for name in trust.OF_THE_MACHINE:
    assert getattr(config, name) == getattr(own, name)
  assert taken(system, '--config.dmlab_level_cache=/mine', **theirs).dmlab_level_cache == '/mine'


def test_every_setting_with_a_path_is_ones_own():
  """A new setting that names a file or folder must be added to `OF_THE_MACHINE`."""
  for system in SYSTEMS.values():
    for field in dataclasses.fields(system.presets.config):
      if any(word in field.name for word in ('path', 'cache', 'file', 'folder', 'dir')):
        assert field.name in trust.OF_THE_MACHINE


@pytest.mark.parametrize(
  'env, code',
  [
    (OWN_MODULE, 'the Python module some_module'),
    ('gym:os.path:x', 'the Python module os.path'),
    ('json.tool:main', 'the Python module json.tool'),
    ('dmlab:../../tmp/level', 'the script of the level ../../tmp/level'),
    ('dmlab:/tmp/level', 'the script of the level /tmp/level'),
  ],
)
def test_code_runs_only_if_ones_own_command_line_names_it(system, env, code):
  message = refused(system, env=env)
  assert code in message and f'--env={env}' in message
  # The flag that the message names, and no other.
  assert taken(system, f'--config.env={env}', env=env).env == env
  assert f"learner's env is '{env}'" in refused(system, '--env=gym:CartPole-v1', env=env)


def test_an_environment_that_is_named_asks_for_nothing_else(system, monkeypatch, tmp_path):
  """What the message about code tells the user to add must be enough."""
  (tmp_path / 'some_module.py').write_text(
    "import gymnasium\ngymnasium.register('Chase-v0', 'gymnasium.envs.classic_control:CartPoleEnv')"
  )
  monkeypatch.syspath_prepend(tmp_path)
  try:
    config = taken(system, f'--env={OWN_MODULE}', env=OWN_MODULE, batch_size=17)
  finally:
    # Ape-X has made the environment, to choose its preset.
    sys.modules.pop('some_module', None)
    gymnasium.registry.pop('Chase-v0', None)
  assert (config.env, config.batch_size) == (OWN_MODULE, 17)


@pytest.mark.parametrize(
  'env',
  ['gym:CartPole-v1', 'gym:ALE/Pong-v5', 'doom', 'doom:basic', 'atari:pong', 'atari57', 'dmlab30']
  + [
    'dmlab:rooms_watermaze',
    'dmlab:contributed/dmlab30/rooms_watermaze',
    'control:cartpole-swing',
  ],
)
def test_what_installed_packages_list_needs_no_leave(system, env):
  assert taken(system, env=env).env == env


def test_a_package_with_the_name_of_a_family_changes_nothing(system, tmp_path, monkeypatch):
  (tmp_path / 'control.py').touch()
  monkeypatch.syspath_prepend(tmp_path)
  assert taken(system, env='control:cartpole-swingup').env == 'control:cartpole-swingup'
  assert 'the Python module control' in refused(system, env='gym:control:x')


def test_settings_of_an_engine_need_leave(system):
  engine = 'appendCommand=writeconfig x'
  message = refused(system, dmlab_engine=engine)
  assert engine in message and f"--config.dmlab_engine='{engine}'" in message
  assert taken(system, f'--config.dmlab_engine={engine}', dmlab_engine=engine)


@pytest.mark.parametrize(
  'name, value', [('wrappers', 'some_module:Wrapper'), ('env_kwargs', 'xml_file=/etc/passwd')]
)
def test_wrappers_and_arguments_need_leave(system, name, value):
  message = refused(system, **{name: value})
  assert value in message and f'--{name}={value}' in message
  assert getattr(taken(system, f'--{name}={value}', **{name: value}), name) == value
  assert 'some_module' not in sys.modules


def test_what_the_user_asked_for_is_compared_here_too(system):
  message = refused(system, '--config.batch_size=8', batch_size=9)
  assert "the learner's batch_size is 9, but 8 on the command line here" in message
  assert taken(system, '--config.batch_size=8', batch_size=8).batch_size == 8


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'batch_size': '8'}, "it says that batch_size is '8', expected int"),
    ({'batch_size': None}, 'batch_size is a NoneType'),
    ({'batch_size': True}, 'batch_size is True'),
    ({'discount': float('nan')}, 'discount is nan'),
    ({'discount': 10**400}, 'discount is'),
    ({'seed': -1}, 'seed is -1'),
    ({'envs_per_actor': 10**9}, 'envs_per_actor is 1000000000'),
    ({'vector_sizes': '64,1000000'}, "vector_sizes is '64,1000000'"),
    ({'vector_sizes': '9' * 9000}, "vector_sizes is '999"),
    ({'image_size': '9999999x84'}, "image_size is '9999999x84'"),
    ({'total_frames': 2**62}, 'total_frames is'),
    ({'torso': 'none'}, "torso is 'none'"),
    ({'torso': '\x1b[2J'}, r'torso is'),
    ({'env': 'gym:CartPole-v1\nerror: forged'}, 'env is'),
    ({'tasks': 'x' * 10**6}, 'tasks is'),
    ({'tasks': ['a']}, 'tasks is a list'),
    ({'tasks': {}}, 'tasks is a dict'),
    ({'another': 1}, 'another is unknown'),
    ({'\x1b[2J': 1}, 'is unknown'),
  ],
  ids=lambda value: repr(value)[:40],
)
def test_settings_that_cannot_work_are_a_user_error(system, changes, words):
  message = refused(system, **changes)
  assert "the learner's settings cannot be used here" in message and words in message


def test_a_missing_setting_is_a_user_error(system):
  given = settings_of(system)
  del given['env']
  with pytest.raises(errors.UserError, match=f'env is missing. Is it a learner of {system.title}'):
    trust.of_learner(system, given, *command(system))
  with pytest.raises(errors.UserError, match='is missing'):
    trust.of_learner(system, {}, *command(system))


def test_settings_of_another_system_are_a_user_error():
  for system, other in ((impala.IMPALA, apex.APEX), (apex.APEX, impala.IMPALA)):
    with pytest.raises(errors.UserError, match=f'Is it a learner of {system.title}'):
      trust.of_learner(system, settings_of(other), *command(system))


def test_flags_give_actor_processes_the_settings_of_their_parent(system):
  config, asked = command(
    system,
    *('--preset=gym', '--config.dmlab_engine=a=b,c=d', '--config.dmlab_level_cache=/my folder'),
  )
  child, named = command(system, *trust.flags_for(config, asked))
  assert child == config and named == asked

  child, named = command(system, *trust.flags_for_own(config))
  assert (child.env, child.dmlab_engine) == (config.env, config.dmlab_engine)
  assert child.dmlab_level_cache == '/my folder'
  # The learner compares what is named: nothing else may be.
  assert named == {'env', 'env_kwargs', 'wrappers', 'dmlab_engine', *trust.OF_THE_MACHINE}


# Whole processes.

_MARKED = """
import pathlib
import gymnasium
pathlib.Path(__file__).with_suffix('.imported').touch()
gymnasium.register('Marked-v0', 'gymnasium.envs.classic_control:CartPoleEnv')
"""


@pytest.mark.parametrize('role', ['actor', 'evaluator'])
def test_a_learners_module_is_not_imported(system, role, tmp_path, monkeypatch):
  # Imported here: TensorFlow takes seconds.
  from common.runs import roles
  from tests.common.distributed import learners

  (tmp_path / 'marked.py').write_text(_MARKED)
  monkeypatch.syspath_prepend(tmp_path)
  env = 'gym:marked:Marked-v0'
  identity = membership.Identity(version.of_code(), settings_of(system, env=env))

  with learners.closing(learners.Learner(identity=identity)) as learner:
    arguments = ['train', f'--role={role}', f'--learner={learner.server.address.address}']

    def work(*flags):
      config, options = command_line.parse(
        [*arguments, *flags], '', system.presets, system.switches, cluster.define_flags
      )
      return roles.work(system, config, options, cluster.resolve(options.values))

    with pytest.raises(errors.UserError, match='would run the Python module marked .*--env=' + env):
      work()
    assert 'marked' not in sys.modules and not (tmp_path / 'marked.imported').exists()
    assert learner.roster.members() == []  # It has left.

    # It is allowed to, and then finds that the learner's parameters are of another network.
    with pytest.raises(errors.UserError, match="the learner's parameters are 10 numbers"):
      work(f'--env={env}')
    assert (tmp_path / 'marked.imported').exists()
  sys.modules.pop('marked', None)
  gymnasium.registry.pop('Marked-v0', None)


def test_a_learner_that_has_no_leave_for_several_does_not_start(tmp_path, monkeypatch):
  monkeypatch.setenv(
    'TF_CONFIG',
    '{"cluster": {"learner": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "learner", '
    '"index": 0}}',
  )
  folder = tmp_path / 'run'
  message = programs.refusal(
    'impala', '--cluster=tf_config', f'--run_dir={folder}', '--config.num_actors=2'
  )
  assert not folder.exists()
  for words in ('127.0.0.1:1001', 'every interface', 'no token', 'any graph', 'firewall'):
    assert words in message
  assert '--trusted_network' in message and 'docs/distributed.md' in message
