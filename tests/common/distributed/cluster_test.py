"""Roles and addresses from flags, TF_CONFIG or Slurm, and messages for contradictions."""

import importlib.util
import json
import os
import re
import socket

import pytest
from absl import flags

from common import errors
from common.distributed import cluster

TOKEN = '0123456789abcdef' * 2
OTHER = 'fedcba9876543210' * 2


def resolve(*arguments):
  values = flags.FlagValues()
  cluster.define_flags(values)
  values(['train', *arguments])
  return cluster.resolve(values)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """Without a cluster and without a token."""
  for name in list(os.environ):
    if name.startswith('SLURM_') or name in ('TF_CONFIG', cluster.TOKEN_VARIABLE):
      monkeypatch.delenv(name)
  return monkeypatch


@pytest.fixture
def token(tmp_path):
  path = tmp_path / 'token'
  path.write_text(f' {TOKEN}\n')
  path.chmod(0o600)
  return f'--token_file={path}'


@pytest.fixture
def tf_config(environment):
  """A function that sets TF_CONFIG."""

  def put(task, jobs=None):
    jobs = jobs or {
      'learner': ['here:1', 'there:2'],
      'actor': ['a:1', 'b:1', 'c:1'],
      'evaluator': ['e:1'],
    }
    environment.setenv(
      'TF_CONFIG', json.dumps({'cluster': jobs} | ({'task': task} if task is not None else {}))
    )

  return put


@pytest.fixture
def slurm(environment):
  """A function that sets what srun sets, for tasks on the nodes gpu01 and gpu02."""

  def put(rank, tasks_per_node='2(x2)', nodes='gpu[01-02]', tasks=4, gpus=None):
    for name, value in {
      'PROCID': rank,
      'NTASKS': tasks,
      'STEP_NUM_TASKS': tasks,
      'STEP_NODELIST': nodes,
      'STEP_TASKS_PER_NODE': tasks_per_node,
    }.items():
      environment.setenv(f'SLURM_{name}', str(value))
    if gpus is None:
      environment.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    else:
      environment.setenv('CUDA_VISIBLE_DEVICES', gpus)

  return put


def refused(*arguments):
  """The message to the user."""
  with pytest.raises(errors.UserError) as told:
    resolve(*arguments)
  return str(told.value)


def test_without_flags_everything_is_in_one_process():
  who = resolve()
  assert (who.role, who.listen, who.learner, who.learners, who.token) == ('all', '', '', (), '')
  assert who.has_threads and cluster.places(who, 7) == 7
  assert who.name == f'{socket.gethostname()}/{os.getpid()}'


def test_a_learner_listens_on_this_machine_by_default():
  who = resolve('--role=learner')
  host, port = cluster.parse_address(who.listen, '--listen')
  assert cluster.is_loopback(host) and port and not who.has_threads
  assert resolve('--role=learner', '--listen=localhost:77').listen == 'localhost:77'
  assert cluster.places(who, 7) == 7


def test_actor_processes_need_no_address():
  """A Unix socket is enough for them."""
  who = resolve('--actor_processes=3')
  assert (who.role, who.listen, who.actor_processes) == ('all', '', 3)
  assert who.is_host and not who.has_threads
  assert cluster.places(who, 7) == 3
  assert resolve('--actor_processes=3', '--listen=127.0.0.1:5').listen == '127.0.0.1:5'
  assert cluster.places(resolve('--actor_processes=3', '--role=learner'), 7) == 7


@pytest.mark.parametrize('index, numbers', [(0, [0, 3]), (1, [1, 4]), (2, [2, 5])])
def test_several_learners_share_the_actors_equally(index, numbers):
  who = cluster.Cluster(role='learner', learners=('a:1', 'b:1', 'c:1'), index=index)
  assert list(cluster.assignments(who, 6)) == numbers
  with pytest.raises(errors.UserError, match='num_actors is 7, expected a multiple of 3'):
    cluster.assignments(who, 7)


def test_a_single_learner_has_all_actors():
  assert list(cluster.assignments(cluster.Cluster(), 5)) == [0, 1, 2, 3, 4]


def test_a_process_with_actor_threads_may_listen_for_others():
  who = resolve('--listen=127.0.0.1:0')
  assert who.listen == '127.0.0.1:0' and who.has_threads and who.is_host


def test_only_learners_with_other_processes_are_hosts(token):
  assert not resolve().is_host
  assert not resolve('--role=actor', '--learner=h:1', '--actor_processes=3', token).is_host
  assert resolve('--role=learner').is_host


@pytest.mark.parametrize('role', ['actor', 'evaluator'])
def test_an_actor_or_evaluator_has_its_learners_address(role, token):
  who = resolve(
    f'--role={role}', '--learner=far.away:8476', '--name=seven', '--patience_seconds=12', token
  )
  assert who == cluster.Cluster(
    role=role, learner='far.away:8476', name='seven', token=TOKEN, patience_seconds=12.0
  )


def test_one_command_may_start_several_actors(token):
  who = resolve('--role=actor', '--learner=h:1', '--actor_processes=4', token)
  assert (who.actor_processes, who.has_threads) == (4, False)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--role=actor'], '--role=actor needs .*--learner=HOST:PORT'),
    (['--role=evaluator'], '--role=evaluator needs .*--learner=HOST:PORT'),
    (['--learner=h:1'], '--learner=h:1 is for actors .*--role=actor'),
    (['--role=learner', '--learner=h:1'], '--learner=h:1 is for actors'),
    (
      ['--role=actor', '--learner=h:1', '--listen=127.0.0.1:1'],
      '--listen=127.0.0.1:1 is for learners.*--role=actor',
    ),
    (['--role=evaluator', '--learner=h:1', '--listen=:1'], '--listen=:1 is for learners'),
    (
      ['--role=evaluator', '--learner=h:1', '--actor_processes=2'],
      '--actor_processes is for .*--role=evaluator',
    ),
  ],
)
def test_contradictory_flags_are_refused(arguments, words):
  assert re.search(words, refused(*arguments))


@pytest.mark.parametrize(
  'address', ['h', 'h:', ':1', '1', 'h:x', 'h:-1', 'h:65536', 'h:1.5', 'h: 1', '']
)
def test_what_is_not_host_and_port_is_refused(address):
  with pytest.raises(
    errors.UserError, match=re.escape(f'--flag is {address!r}, expected HOST:PORT')
  ):
    cluster.parse_address(address, '--flag')
  if address:
    assert '--learner is' in refused('--role=actor', f'--learner={address}')
    assert '--listen is' in refused('--role=learner', f'--listen={address}')


@pytest.mark.parametrize('role', ['actor', 'evaluator'])
def test_a_learner_of_this_machine_is_reached_by_its_socket_without_a_token(role):
  who = resolve(f'--role={role}', '--learner=unix:/a b/s')
  assert (who.learner, who.token) == ('unix:/a b/s', '')
  address = cluster.parse_learner(who.learner)
  assert address == cluster.UnixSocket('/a b/s') and address.address == who.learner


@pytest.mark.parametrize('address', ['unix:', 'unix:s', 'unix', '/a/s'])
def test_a_socket_without_an_absolute_path_is_refused(address):
  assert '--learner is' in refused('--role=actor', f'--learner={address}')


@pytest.mark.parametrize('role', ['actor', 'evaluator'])
def test_a_learner_that_is_reached_by_tcp_needs_a_token(role, environment):
  arguments = f'--role={role}', '--learner=h:1'
  assert re.search(
    f'the learner at h:1 needs its token: --token_file=PATH .*{cluster.TOKEN_VARIABLE}.*folder',
    refused(*arguments),
  )
  environment.setenv(cluster.TOKEN_VARIABLE, OTHER)
  assert resolve(*arguments).token == OTHER


def test_a_weak_token_is_refused(tmp_path, environment):
  path = tmp_path / 'token'
  path.write_text('sesame')
  words = 'is too easy to guess: 6 characters, .* 128 random bits.*openssl rand -hex 16'
  assert re.search(f'--token_file={path} {words}', refused(f'--token_file={path}'))
  environment.setenv(cluster.TOKEN_VARIABLE, 'sesame')
  assert re.search(f'{cluster.TOKEN_VARIABLE} {words}', refused('--role=learner'))


@pytest.mark.parametrize(
  'address, parts',
  [
    ('h:0', ('h', 0)),
    ('10.0.0.1:65535', ('10.0.0.1', 65535)),
    ('[::1]:80', ('::1', 80)),
    ('::1:80', ('::1', 80)),
  ],
)
def test_addresses_are_parsed(address, parts):
  assert cluster.parse_address(address, '--flag') == parts


@pytest.mark.parametrize(
  'listen', ['0.0.0.0:1', '[::]:1', '10.1.2.3:1', 'a-name:1', '128.0.0.1:1', '127.evil.org:1']
)
@pytest.mark.parametrize('role', ['learner', 'all'])
def test_listening_beyond_this_machine_needs_a_token(role, listen, token, environment):
  arguments = f'--role={role}', f'--listen={listen}'
  assert re.search(
    f'(?s){re.escape(listen)}.*token.*--token_file=PATH.*{cluster.TOKEN_VARIABLE}',
    refused(*arguments),
  )
  assert resolve(*arguments, token).token == TOKEN
  environment.setenv(cluster.TOKEN_VARIABLE, OTHER)
  assert resolve(*arguments).token == OTHER
  assert resolve(*arguments, token).token == TOKEN


@pytest.mark.parametrize('listen', ['127.0.0.1:1', '127.9.9.9:1', 'localhost:1', '[::1]:1'])
def test_listening_on_this_machine_needs_no_token(listen):
  assert resolve('--role=learner', f'--listen={listen}').token == ''


@pytest.mark.parametrize(
  'content, words',
  [
    (None, 'cannot be read: .*No such file'),
    (b'', 'is empty'),
    (b' \n\t', 'is empty'),
    (b'\xff\xfe\x00', 'cannot be read'),
  ],
)
def test_a_token_file_without_a_token_is_refused(content, words, tmp_path):
  if content is not None:
    (tmp_path / 'token').write_bytes(content)
  assert re.search(
    f'--token_file={tmp_path}/token {words}', refused(f'--token_file={tmp_path}/token')
  )


@pytest.mark.parametrize('index', [0, 1])
def test_tf_config_of_several_learners(index, tf_config, token):
  tf_config({'type': 'learner', 'index': index})
  who = resolve('--cluster=tf_config', token)
  assert (who.role, who.listen, who.index) == ('learner', ['here:1', 'there:2'][index], index)
  assert who.learners == ('here:1', 'there:2') and who.learner == ''


def test_a_network_is_trusted_only_if_the_user_says_so(tf_config, token):
  tf_config({'type': 'learner', 'index': 0})
  assert not resolve('--cluster=tf_config', token).trusted_network
  assert resolve('--cluster=tf_config', token, '--trusted_network').trusted_network
  # Slurm gives all tasks one command line.
  tf_config({'type': 'actor', 'index': 0})
  assert resolve('--cluster=tf_config', token, '--trusted_network').role == 'actor'


def test_tf_config_of_a_single_learner(tf_config):
  tf_config({'type': 'learner', 'index': 0}, {'learner': ['127.0.0.1:5'], 'actor': ['a:1']})
  who = resolve('--cluster=tf_config')
  assert (who.role, who.listen, who.learners, who.index) == ('learner', '127.0.0.1:5', (), 0)


@pytest.mark.parametrize(
  'role, index, learner',
  [
    ('actor', 0, 'here:1'),
    ('actor', 1, 'there:2'),
    ('actor', 2, 'here:1'),
    ('evaluator', 0, 'here:1'),
  ],
)
def test_tf_config_deals_actors_and_evaluators_out_to_its_learners(
  role, index, learner, tf_config, token
):
  tf_config({'type': role, 'index': index})
  who = resolve('--cluster=tf_config', token)
  assert (who.role, who.learner, who.name, who.listen) == (role, learner, f'{role}-{index}', '')
  assert resolve('--cluster=tf_config', '--name=mine', token).name == 'mine'


def test_tf_config_of_a_public_learner_needs_a_token(tf_config):
  tf_config({'type': 'learner', 'index': 0})
  assert 'here:1' in refused('--cluster=tf_config')


@pytest.mark.parametrize(
  'text',
  [
    None,
    '',
    'x',
    '[]',
    '1',
    '{}',
    '{"cluster": []}',
    '{"cluster": {"learner": ["h:1"]}}',
    '{"cluster": {"learner": ["h:1"]}, "task": []}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "actor"}}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "learner"}}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "learner", "index": 1}}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "learner", "index": -1}}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "actor", "index": "x"}}',
    '{"cluster": {"learner": ["h:1"]}, "task": {"type": "actor", "index": null}}',
    '{"cluster": {"learner": []}, "task": {"type": "actor", "index": 0}}',
    '{"cluster": {"learner": "h:1"}, "task": {"type": "actor", "index": 0}}',
    '{"cluster": {"learner": [1]}, "task": {"type": "actor", "index": 0}}',
    '{"cluster": {"worker": ["h:1"]}, "task": {"type": "actor", "index": 0}}',
  ],
)
def test_a_malformed_tf_config_is_refused(text, environment, token):
  if text is not None:
    environment.setenv('TF_CONFIG', text)
  assert '--cluster=tf_config' in refused('--cluster=tf_config', token)


def test_a_tf_config_without_ports_is_refused(tf_config):
  tf_config({'type': 'actor', 'index': 0}, {'learner': ['nowhere']})
  assert "'nowhere', expected HOST:PORT" in refused('--cluster=tf_config')


@pytest.mark.parametrize(
  'gpus', ['', '0', '0,1', '0,1,2,3', None], ids=['no GPU', 'one', 'two', 'four', 'unset']
)
def test_slurms_first_task_is_the_learner_and_the_others_are_actors(slurm, token, gpus):
  slurm(0, gpus=gpus)
  learner = resolve('--cluster=slurm', token)
  assert (learner.role, learner.index, learner.learners) == ('learner', 0, ())
  assert cluster.parse_address(learner.listen, '--listen')[0] == 'gpu01'
  assert os.environ.get('CUDA_VISIBLE_DEVICES') == gpus
  names = set()
  for rank in (1, 2, 3):
    slurm(rank, gpus=gpus)
    actor = resolve('--cluster=slurm', token)
    assert (actor.role, actor.learner, actor.listen) == ('actor', learner.listen, '')
    names.add(actor.name)
  assert len(names) == 3


def test_several_slurm_learners_share_the_actors(slurm, token):
  found = []
  for rank in range(6):
    slurm(rank, tasks_per_node='3(x2)', tasks=6, gpus='0')
    found.append(resolve('--cluster=slurm', '--learners=2', token))
  assert [who.role for who in found] == ['learner'] * 2 + ['actor'] * 4
  addresses = tuple(who.listen for who in found[:2])
  assert len(set(addresses)) == 2 and all(address.startswith('gpu01:') for address in addresses)
  assert [(who.learners, who.index) for who in found[:2]] == [(addresses, 0), (addresses, 1)]
  assert [addresses.index(who.learner) for who in found[2:]] == [0, 1, 0, 1]


def test_slurm_learners_on_one_machine_use_different_ports(slurm, token):
  slurm(0, tasks_per_node='4(x2)', tasks=8, gpus='0')
  who = resolve('--cluster=slurm', '--learners=3', token)
  assert len({*who.learners, *who.peers}) == 6


def test_slurm_tasks_may_all_be_learners(slurm, token):
  slurm(1, tasks_per_node='1(x2)', tasks=2, gpus='0')
  who = resolve('--cluster=slurm', '--learners=2', token)
  assert (who.role, who.index, len(who.learners)) == ('learner', 1, 2)


def test_more_learners_than_slurm_tasks_are_refused(slurm, token):
  slurm(0, gpus='0')
  assert '--cluster=slurm' in refused('--cluster=slurm', '--learners=5', token)


@pytest.mark.parametrize('name', ['PROCID', 'STEP_NODELIST', 'STEP_TASKS_PER_NODE'])
@pytest.mark.parametrize('value', [None, 'a]b[['])
def test_missing_slurm_variables_are_named(name, value, slurm, environment, token):
  slurm(0, gpus='0')
  environment.delenv(f'SLURM_{name}')
  if value is not None:
    environment.setenv(f'SLURM_{name}', value)
  told = refused('--cluster=slurm', token)
  assert '--cluster=slurm' in told and 'srun' in told
  assert name in told if value is None else value in told


def test_outside_slurm_the_message_names_srun():
  assert re.search('--cluster=slurm: .*SLURM_.*srun', refused('--cluster=slurm'))


@pytest.mark.skipif(
  importlib.util.find_spec('kubernetes') is not None, reason='the package is there'
)
@pytest.mark.parametrize('role', ['learner', 'actor'])
def test_kubernetes_without_its_package_is_refused(role):
  assert re.search(
    '--cluster=kubernetes: .*package kubernetes', refused('--cluster=kubernetes', f'--role={role}')
  )
