"""The gate: who has the token gets through, nobody else reaches TensorFlow's server."""

import contextlib
import os
import pathlib
import random
import re
import resource
import signal
import socket
import ssl
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import tensorflow as tf

from common import errors
from common.distributed import cluster, credentials, gate, relay, rpc
from common.distributed import session as sessions
from scripts import processes, tensors
from tests.common.distributed import learners
from tests.common.distributed.learners import TOKEN, payload

ROOT = pathlib.Path(__file__).resolve().parents[3]
OTHER = 'fedcba9876543210' * 2
DEADLINE = 20.0


@pytest.fixture
def stack():
  with contextlib.ExitStack() as opened:
    yield opened


@pytest.fixture
def gated(stack):
  """A gate before an echo, with the connections that have reached the echo."""
  return Gated(stack)


class Gated:
  """A gate before a server that sends back what it gets.

  Attributes:
    reached: The first bytes of each connection that came through.
  """

  def __init__(self, stack, token=TOKEN, host='127.0.0.1'):
    self.reached = []
    self._folder = stack.enter_context(contextlib.closing(gate.Folder()))
    self._listener = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
    self._listener.bind(self._folder.path)
    self._listener.listen()
    threading.Thread(target=self._accept, daemon=True).start()
    self.gate = gate.Gate(cluster.Endpoint(host, 0), token, self._folder.path)
    stack.callback(self.gate.close)
    self.gate.start()
    self.port = self.gate.endpoint.port

  @property
  def pid(self):
    return self.gate._process.pid

  def _accept(self):
    with contextlib.suppress(OSError):
      while True:
        connection, _ = self._listener.accept()
        threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

  def _echo(self, connection):
    first = True
    with contextlib.suppress(OSError), connection:
      while data := connection.recv(1 << 16):
        if first:
          self.reached.append(data)
        first = False
        connection.sendall(data)


def dial(port, token=TOKEN, seconds=10.0):
  """A TLS connection to a gate."""
  sock = socket.create_connection(('127.0.0.1', port), seconds)
  return relay.context(credentials.pem(token), is_server=False).wrap_socket(sock)


def is_refused(connection):
  """Whether the other side closes the connection without a word."""
  try:
    return connection.recv(1) == b''
  except (ConnectionError, ssl.SSLError):
    return True


def is_let_in(connection):
  """Whether an echo is behind the gate."""
  connection.sendall(b'hello')
  return connection.recv(5) == b'hello'


# The token.


def test_equal_tokens_give_equal_certificates_and_others_do_not():
  credentials.pem.cache_clear()
  first = credentials.pem(TOKEN)
  credentials.pem.cache_clear()
  assert credentials.pem(TOKEN) == first
  assert credentials.pem(OTHER) != first


@pytest.mark.parametrize(
  'token',
  [
    '0123456789abcdef' * 2,
    'F0E1D2C3B4A5968778695A4B3C2D1E0F',
    'correct horse battery staple',
    'Sésame, ouvre-toi ✓ 12345',
    'ungültige\udcff\udcfeBytes-0123456789',
    'IJpVSwYYTLSUtC6z1k4vAw',  # 16 bytes in base 64.
  ],
)
def test_tokens_of_128_bits_are_taken(token, stack):
  credentials.check_token(token, 'it')
  gated = Gated(stack, token)
  assert is_let_in(dial(gated.port, token))


@pytest.mark.parametrize(
  'token', ['sesame', 'x', '0123456789abcdef', TOKEN[1:], 'z-' + TOKEN[:19], 'a' * 100, 'ü' * 40]
)
def test_tokens_that_can_be_guessed_are_refused_with_a_command_for_better_ones(token):
  with pytest.raises(errors.UserError, match='--t is too easy.*128.*openssl rand -hex 16'):
    credentials.check_token(token, '--t')


def test_a_token_file_that_others_may_read_is_warned_of(tmp_path, caplog):
  path = tmp_path / 'token'
  path.write_text(TOKEN)
  for mode in (0o600, 0o400):
    path.chmod(mode)
    assert credentials.read_token(path, '--t') == TOKEN and not caplog.messages
  for mode in (0o640, 0o604):
    path.chmod(mode)
    caplog.clear()
    assert credentials.read_token(path, '--t') == TOKEN
    assert re.search('--t may be read by other users.*chmod 600 ', caplog.text)


def test_a_learner_without_a_token_makes_one_and_keeps_it(tmp_path):
  path = tmp_path / 'token'
  token = credentials.own_token(path)
  credentials.check_token(token, 'it')
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert credentials.own_token(path) == token == path.read_text().strip()
  assert os.listdir(tmp_path) == ['token']


# Getting in.


def test_the_right_token_gets_through_and_others_do_not(stack, capfd):
  gated = Gated(stack)  # Here, where its output is captured.
  connection = dial(gated.port)
  assert is_let_in(connection) and connection.version() == 'TLSv1.3'
  with pytest.raises(ssl.SSLCertVerificationError):
    dial(gated.port, OTHER)
  assert is_let_in(dial(gated.port))
  assert gated.reached == [b'hello'] * 2
  assert re.search(
    rf'Connections without the token at 127.0.0.1:{gated.port}: 1 refused, the last one from '
    r'127.0.0.1: its token is another\.',
    capfd.readouterr().out,
  )


@pytest.mark.parametrize('shows', ['nothing', 'another'])
def test_a_client_that_trusts_any_server_does_not_get_through(gated, shows):
  """It must show the certificate itself."""
  context = relay.context(credentials.pem(OTHER), is_server=False)
  if shows == 'nothing':
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
  context.verify_mode = ssl.CERT_NONE
  sock = socket.create_connection(('127.0.0.1', gated.port), 5.0)
  with contextlib.suppress(ssl.SSLError, ConnectionError), context.wrap_socket(sock) as connection:
    connection.sendall(b'hello')
    assert is_refused(connection)
  assert is_let_in(dial(gated.port)) and len(gated.reached) == 1


def test_the_certificate_vouches_for_no_other(gated):
  """Its key, if it were stolen by way of another protocol, must not make certificates."""
  assert 'CA:TRUE' not in credentials.pem(TOKEN)
  certificate = dial(gated.port).getpeercert(binary_form=True)
  assert ssl.DER_cert_to_PEM_cert(certificate) in credentials.pem(TOKEN)


def test_older_tls_is_refused(gated):
  context = relay.context(credentials.pem(TOKEN), is_server=False)
  context.minimum_version = ssl.TLSVersion.TLSv1_2
  context.maximum_version = ssl.TLSVersion.TLSv1_2
  with (
    socket.create_connection(('127.0.0.1', gated.port), 5.0) as sock,
    pytest.raises(ssl.SSLError),
  ):
    context.wrap_socket(sock)
  assert gated.reached == []


def test_large_messages_of_many_connections_arrive_whole(gated):
  rng = random.Random(0)
  failed = []

  def exchange(seed):
    connection = dial(gated.port, seconds=60.0)
    sent = random.Random(seed).randbytes(8_000_000)
    sending = threading.Thread(target=connection.sendall, args=(sent,))
    # Reads late and little by little: the gate must wait rather than fill its memory.
    received = bytearray()
    sending.start()
    time.sleep(0.2)
    while len(received) < len(sent) and (data := connection.recv(rng.choice([10, 10**5]))):
      received += data
    sending.join()
    if received != sent:
      failed.append(seed)

  threads = [threading.Thread(target=exchange, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failed


def resident_mb(pid):
  words = re.search(r'VmRSS:\s+(\d+)', pathlib.Path(f'/proc/{pid}/status').read_text())
  return int(words[1]) / 1e3


def test_what_nobody_reads_does_not_fill_the_gates_memory(gated):
  connection = dial(gated.port)
  assert is_let_in(connection)
  before = resident_mb(gated.pid)
  connection.settimeout(2.0)
  with pytest.raises(TimeoutError):
    connection.sendall(bytes(100_000_000))
  assert resident_mb(gated.pid) < before + 20


# Strangers.


SERVING = """
import sys, time
sys.path.insert(0, {root!r})
from tests.common.distributed import learners
learner = learners.Learner()
print(learner.port, learner.path, flush=True)
while True:
  learner.server.look_after()
  learner.take()
  time.sleep(0.05)
"""


@pytest.fixture
def serving(stack):
  """A learner in a process of its own, its port and its socket."""
  process = subprocess.Popen(
    [sys.executable, '-c', SERVING.format(root=str(ROOT))],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
  )
  stack.callback(process.wait)
  stack.callback(process.kill)
  port, path = process.stdout.readline().split()
  return process, int(port), path


def test_a_tensor_that_kills_tensorflows_server_does_not_reach_it(serving):
  """It does kill it where it arrives, which is why there is a gate."""
  process, port, path = serving
  call = tensors.request(b'tell', tensors.VARIANT)
  for _ in range(3):
    with socket.create_connection(('127.0.0.1', port), 5.0) as stranger:
      stranger.sendall(call)
      assert is_refused(stranger)
  with pytest.raises(ssl.SSLError):
    dial(port, OTHER).sendall(call)
  with learners.closing(learners.link(port)) as link:
    link.join()
    link.put(payload(1))
  assert process.poll() is None

  with socket.socket(socket.AF_UNIX) as owner:
    owner.connect(path)
    owner.sendall(call)
    owner.settimeout(DEADLINE)
    with contextlib.suppress(ConnectionError):
      while owner.recv(1000):
        pass
  assert process.wait(DEADLINE) == -signal.SIGSEGV


@pytest.mark.parametrize(
  'words',
  [
    b'\0',
    b'GET / HTTP/1.1\r\nHost: here\r\n\r\n',
    tensors.request(b'tell', tensors.VARIANT),
    b'\x16\x03\x01' + bytes(200),
    random.Random(0).randbytes(100_000),
  ],
  ids=['zero', 'http', 'grpc', 'tls', 'noise'],
)
def test_what_is_not_tls_is_refused(gated, words):
  with socket.create_connection(('127.0.0.1', gated.port), 10.0) as stranger:
    with contextlib.suppress(ConnectionError):
      stranger.sendall(words)
      stranger.shutdown(socket.SHUT_WR)
    assert is_refused(stranger)
  assert is_let_in(dial(gated.port)) and len(gated.reached) == 1


def files_of(pid):
  return len(os.listdir(f'/proc/{pid}/fd'))


def test_silent_connections_cost_the_learner_no_files_and_are_closed(stack, tmp_path, capfd):
  """200 of them, when 40 more files may be opened; members join meanwhile."""
  learner = stack.enter_context(learners.closing(learners.Learner()))
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  strangers = []
  gate_pid = learner.server._gate._process.pid
  assert processes.becomes_true(lambda: files_of(gate_pid) < 20, DEADLINE)
  before = files_of('self')
  for _ in range(200):
    strangers.append(socket.create_connection(('127.0.0.1', learner.port), 10.0))
  try:
    assert files_of('self') == before + 200  # All of them are this test's own ends.
    assert processes.becomes_true(lambda: files_of(gate_pid) >= 100, DEADLINE)
    assert processes.becomes_true(lambda: files_of(gate_pid) < 150, 2.0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 240, hard))
    with learners.closing(learners.link(learner.port)) as link:
      link.join()
      link.put(payload(1))
      saved = tf.train.Checkpoint(x=tf.Variable(1.0)).save(str(tmp_path / 'saved'))
    assert os.path.exists(f'{saved}.index') and learner.take() == [1]
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

  started = time.monotonic()
  for stranger in strangers:
    stranger.settimeout(relay.HANDSHAKE_SECONDS + 5.0)
    assert is_refused(stranger)
    stranger.close()
  assert time.monotonic() - started < relay.HANDSHAKE_SECONDS + 5.0
  assert processes.becomes_true(lambda: files_of(gate_pid) < 20, DEADLINE)
  lines = [line for line in capfd.readouterr().out.splitlines() if 'without the token' in line]
  assert len(lines) == 1  # Not one for each.


def test_strangers_that_keep_coming_do_not_keep_members_out(learner):
  ended = threading.Event()

  def knock():
    held = []
    while not ended.is_set():
      with contextlib.suppress(OSError):
        held.append(socket.create_connection(('127.0.0.1', learner.port), 1.0))
      held = held[-300:]
      time.sleep(0.002)
    for one in held:
      one.close()

  knocking = threading.Thread(target=knock)
  knocking.start()
  try:
    for name in 'abc':
      with learners.closing(learners.link(learner.port, name)) as link:
        link.join()
        link.put(payload(1))
  finally:
    ended.set()
    knocking.join()
  assert learner.take() == [1, 1, 1]


# Other users of the machine.


def test_other_users_cannot_reach_the_sockets(learner):
  tunnel = gate.Tunnel(cluster.Endpoint('127.0.0.1', learner.port), TOKEN)
  with learners.closing(tunnel):
    for path in (learner.path, tunnel.path):
      folder = os.stat(os.path.dirname(path))
      assert stat.S_IMODE(folder.st_mode) == 0o700 and folder.st_uid == os.getuid()
      assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_other_users_cannot_read_the_key(gated):
  """Neither on the command line nor in the environment."""
  for name in ('cmdline', 'environ'):
    words = pathlib.Path(f'/proc/{gated.pid}/{name}').read_bytes()
    assert TOKEN.encode() not in words and b'PRIVATE' not in words


def test_a_path_too_long_for_a_socket_is_a_user_error(tmp_path, monkeypatch):
  folder = tmp_path / ('x' * 100)
  folder.mkdir()
  monkeypatch.setattr(gate.tempfile, 'tempdir', str(folder))
  with pytest.raises(errors.UserError, match=r'\d+ bytes, expected at most 107: set .*TMPDIR'):
    gate.Folder()
  assert not list(folder.iterdir())


# What an actor is told.


def test_an_actor_with_another_token_is_told_so_at_once(learner):
  started = time.monotonic()
  with learners.closing(learners.link(learner.port, token=OTHER)) as link:
    with pytest.raises(
      errors.UserError,
      match=f'the learner at 127.0.0.1:{learner.port} has another token: .*--token_file',
    ):
      link.join()
  assert time.monotonic() - started < sessions.RETRY_SECONDS
  assert learner.roster.members() == []


@pytest.mark.parametrize(
  'words',
  [[], [b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'], [b'\x00\xff' * 500]],
  ids=['mute', 'http', 'noise'],
)
def test_a_listener_that_is_no_gate_is_unreachable(words, stack, monkeypatch):
  monkeypatch.setattr(relay, 'HANDSHAKE_SECONDS', 0.5)
  listener = stack.enter_context(socket.create_server(('127.0.0.1', 0)))

  def answer():
    with contextlib.suppress(OSError):
      while True:
        caller, _ = listener.accept()
        stack.callback(caller.close)
        for word in words:
          caller.sendall(word)

  threading.Thread(target=answer, daemon=True).start()
  tunnel = stack.enter_context(
    learners.closing(gate.Tunnel(cluster.Endpoint(*listener.getsockname()), TOKEN))
  )
  with pytest.raises(rpc.Unreachable, match='no learner answers there'):
    tunnel.knock()
  with pytest.raises(rpc.Unreachable):
    rpc.Client(tunnel.path, 0.5)
  listener.shutdown(socket.SHUT_RDWR)


def test_nobody_listening_is_unreachable(stack):
  port = gate.free_port('127.0.0.1', 0)
  for way in (
    gate.way(cluster.Endpoint('127.0.0.1', port), TOKEN),
    gate.way(cluster.UnixSocket('/tmp/no/such/socket'), ''),
  ):
    with learners.closing(way), pytest.raises(rpc.Unreachable, match='nobody listens there'):
      way.knock()


@pytest.mark.parametrize(
  'host', ['no.such.host.invalid', '256.1.1.1', 'a b', 'http://here', '..', 'a' * 70]
)
def test_a_host_that_does_not_exist_is_a_user_error(host):
  with learners.closing(gate.Tunnel(cluster.Endpoint(host, 80), TOKEN)) as tunnel:
    with pytest.raises(errors.UserError, match='--learner'):
      tunnel.knock()


def test_a_closed_tunnel_leaves_no_thread_file_or_socket(learner):
  threads, files = threading.active_count(), files_of('self')
  with learners.closing(learners.link(learner.port)) as link:
    link.join()
    path = link._session._way.path
    assert os.path.exists(path)
  link.close()
  assert threading.active_count() <= threads and not os.path.exists(os.path.dirname(path))
  assert processes.becomes_true(lambda: files_of('self') <= files + 2, DEADLINE)


# Addresses.


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1', '0.0.0.0', '::1', '::'])
def test_a_learner_is_reachable_at_every_kind_of_address(host, stack):
  try:
    learner = stack.enter_context(learners.closing(learners.Learner(host=host)))
  except errors.UserError:
    if ':' in host:
      pytest.skip('this machine has no IPv6')
    raise
  near = {'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host)
  with learners.closing(learners.link(learner.port, host=near)) as link:
    assert link.join().place == 0


def test_free_port_checks_a_port_and_chooses_one_for_0():
  port = gate.free_port('127.0.0.1', 0)
  assert 1024 <= port <= 65535
  assert gate.free_port('127.0.0.1', port) == port
  with socket.create_server(('127.0.0.1', port)):
    with pytest.raises(
      errors.UserError, match=f'cannot listen on 127.0.0.1:{port}: Address already in use.*--listen'
    ):
      gate.free_port('127.0.0.1', port)
  assert gate.free_port('127.0.0.1', port) == port


def test_a_learners_port_is_in_use_until_it_ends(learner):
  for host in ('127.0.0.1', '0.0.0.0'):
    with pytest.raises(errors.UserError, match='Address already in use'):
      gate.free_port(host, learner.port)
  learner.close()
  assert gate.free_port('127.0.0.1', learner.port) == learner.port


def test_a_port_taken_before_the_start_is_a_user_error(gated):
  first, second = (gate.Gate(cluster.Endpoint('127.0.0.1', 0), TOKEN, '') for _ in range(2))
  second.close()
  second = gate.Gate(first.endpoint, TOKEN, '')
  with learners.closing(first), learners.closing(second):
    first.start()
    with pytest.raises(errors.UserError, match='Address already in use'):
      second.start()


@pytest.mark.parametrize(
  'host, port, words',
  [
    ('127.0.0.1', 65536, 'the port is 65536, expected 0 to 65535'),
    ('127.0.0.1', -1, 'the port is -1, expected 0 to 65535'),
    # An address reserved for documentation.
    ('192.0.2.1', 0, 'cannot listen on 192.0.2.1:0: Cannot assign'),
    ('no.such.host.invalid', 0, 'cannot listen on no.such.host.invalid:0'),
    ('a' * 70, 0, 'cannot listen on aaa'),
  ],
  ids=['high', 'negative', 'elsewhere', 'no host', 'no name'],
)
def test_listening_on_a_wrong_address_is_a_user_error(host, port, words):
  with pytest.raises(errors.UserError, match=words):
    gate.free_port(host, port)


@pytest.mark.parametrize('name', ['http_proxy', 'https_proxy', 'grpc_proxy'])
def test_a_proxy_of_the_environment_is_not_asked(name):
  """gRPC obeys these variables even for loopback. Nothing listens at this one."""
  proxy = f'http://127.0.0.1:{gate.free_port("127.0.0.1", 0)}'
  program = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.common.distributed import learners
    learner = learners.Learner()
    link = learners.link(learner.port)
    link.join()
    link.put(learners.payload(7))
    print(learner.take())
    link.close()
    learner.close()
  """
  variables = {k: v for k, v in os.environ.items() if 'proxy' not in k.lower()}
  run = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(program)],
    env={**variables, name: proxy},
    capture_output=True,
    text=True,
    timeout=60.0,
  )
  assert run.stdout == '[7]\n', run.stderr


# Ends.


def test_a_gate_ends_with_a_killed_learner(serving):
  process, port, path = serving

  def gates():
    return [
      pid
      for pid in processes.children(process.pid)
      if b'relay.py' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
    ]

  assert processes.becomes_true(lambda: len(gates()) == 1, DEADLINE)
  (child,) = gates()
  with dial(port) as connection:
    process.kill()
    process.wait()
    assert processes.becomes_true(lambda: not processes.is_alive(child), DEADLINE)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
      while connection.recv(1000):  # TensorFlow's server has sent its greeting.
        pass
  assert gate.free_port('127.0.0.1', port) == port


def test_a_gate_that_is_killed_is_replaced_and_members_go_on(learner, caplog, monkeypatch):
  monkeypatch.setattr(sessions, 'RETRY_SECONDS', 0.1)
  monkeypatch.setattr(sessions, 'CALL_SECONDS', 2.0)
  first = learner.server._gate._process.pid
  with learners.closing(learners.link(learner.port)) as link:
    link.join()
    link.put(payload(1))
    time.sleep(1.1)  # A gate that dies at once is not replaced at once.
    os.kill(first, signal.SIGKILL)

    def is_replaced():
      learner.server.look_after()
      return learner.server._gate._process.pid != first

    assert processes.becomes_true(is_replaced, DEADLINE)
    link.latest()
    link.put(payload(2))
    assert learner.take()[:1] == [1] and learner.count('puts') >= 1
    link.latest()
    link.put(payload(3))
    assert 3 in learner.take()
  assert any('has ended with status -9 and is started again' in text for text in caplog.messages)


def test_a_closed_gate_leaves_no_process_and_frees_the_port(gated):
  pid = gated.pid
  connection = dial(gated.port)
  assert is_let_in(connection)
  gated.gate.close()
  gated.gate.close()
  assert not processes.is_alive(pid) and is_refused(connection)
  assert gate.free_port('127.0.0.1', gated.port) == gated.port
