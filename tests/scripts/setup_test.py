"""Setup of the environment: which Python it takes, what it installs, and when it does so again."""

import pathlib
import shutil
import subprocess

import pytest

from tests import other_user

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / 'scripts'

# Stands in for a Python: reports a version, makes virtual environments, and logs what pip is told.
FAKE_PYTHON = """\
#!/bin/bash
if [ "$1" = -c ]; then
  case "$2" in *tempfile*) [ -z "$NO_TEMPORARY_FOLDER" ] || exit 1;; esac
  echo {version}
elif [ "$2" = venv ]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
  touch "$3/bin/pip"
  chmod +x "$3/bin/pip"
else
  shift 5  # -m pip install --quiet --disable-pip-version-check
  echo "{version}: $1 $(if [ "$1" = -r ]; then cat "$2"; else echo "$2"; fi)" >> "$PIP_LOG"
fi
"""

REQUIREMENTS = """\
# Without its dependencies: envpool==1.0
dm-control==1.0; python_version < "3.13"
tensorflow==2.0
"""


class Checkout:
  """A repository with the setup script, on a machine that has some Pythons."""

  def __init__(self, folder):
    self.root = folder / 'checkout'
    self.bin = folder / 'bin'
    self.bin.mkdir()
    self.log = folder / 'pip.log'
    self.log.touch()
    (self.root / 'scripts').mkdir(parents=True)
    shutil.copy(SCRIPTS / 'setup.sh', self.root / 'scripts')
    (self.root / 'requirements.txt').write_text(REQUIREMENTS)
    for command in ('cat', 'chmod', 'cp', 'dirname', 'find', 'mkdir', 'mv', 'rm', 'sed', 'touch'):
      (self.bin / command).symlink_to(shutil.which(command))

  def add_python(self, command, version):
    path = self.bin / command
    path.write_text(FAKE_PYTHON.format(version=version))
    path.chmod(0o755)

  def set_up(self, returncode=0, user=(), **variables):
    """Sources the script, perhaps as another user; returns what it prints."""
    done = subprocess.run(
      [*user, '/bin/bash', '-c', 'source scripts/setup.sh'],
      cwd=self.root,
      env={'PATH': str(self.bin), 'PIP_LOG': str(self.log), **variables},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    assert done.returncode == returncode, done.stdout
    return done.stdout

  def installed(self):
    """What pip was told since the last call, with the version of its Python."""
    text = self.log.read_text()
    self.log.write_text('')
    return text


@pytest.fixture
def checkout(tmp_path):
  return Checkout(tmp_path)


@pytest.mark.parametrize(
  'pythons, expected',
  [
    ({'python3': '3.12', 'python3.11': '3.11', 'python3.13': '3.13'}, '3.11'),
    ({'python3.13': '3.13', 'python3.12': '3.12'}, '3.12'),
    ({'python3.13': '3.13', 'python3': '3.10'}, '3.13'),
    ({'python3': '3.12'}, '3.12'),
    ({'python3': '3.10', 'python': '3.11'}, '3.11'),
  ],
  ids=str,
)
def test_the_first_supported_python_is_taken(checkout, pythons, expected):
  for command, version in pythons.items():
    checkout.add_python(command, version)
  checkout.set_up()
  assert checkout.installed().startswith(f'{expected}: -r {REQUIREMENTS}')


def test_a_command_that_fails_is_passed_over(checkout):
  """As pyenv's commands for versions that are not selected."""
  broken = checkout.bin / 'python3.11'
  broken.write_text('#!/bin/bash\necho "pyenv: python3.11: command not found" >&2\nexit 127\n')
  broken.chmod(0o755)
  checkout.add_python('python3.12', '3.12')
  checkout.set_up()
  assert checkout.installed().startswith('3.12: ')


@pytest.mark.parametrize('pythons', [{}, {'python3': '3.10', 'python': '3.14'}], ids=str)
def test_without_a_supported_python_the_message_names_those_needed(checkout, pythons):
  for command, version in pythons.items():
    checkout.add_python(command, version)
  output = checkout.set_up(returncode=1)
  assert 'error: no supported Python was found (tried python3.11, python3.12, ' in output
  assert all(f'{command} is {version}' in output for command, version in pythons.items())
  assert 'Install one of the versions 3.11, 3.12, 3.13' in output
  assert not (checkout.root / '.venv' / 'installed.txt').exists()


def test_it_is_done_once_until_the_requirements_change(checkout):
  checkout.add_python('python3.11', '3.11')
  assert 'Setting up' in checkout.set_up()
  assert checkout.installed()
  assert checkout.set_up() == ''
  assert not checkout.installed()

  (checkout.root / 'requirements.txt').write_text('tensorflow==2.1\n')
  assert 'Setting up' in checkout.set_up()
  assert checkout.installed() == '3.11: -r tensorflow==2.1\n'


def test_an_environment_of_another_supported_python_keeps_working(checkout):
  checkout.add_python('python3.12', '3.12')
  checkout.set_up()
  checkout.installed()
  # Now the preferred Python is another one, or there is none at all.
  checkout.add_python('python3.11', '3.11')
  assert checkout.set_up() == ''

  (checkout.root / 'requirements.txt').write_text('tensorflow==2.1\n')
  (checkout.bin / 'python3.11').unlink()
  (checkout.bin / 'python3.12').unlink()
  checkout.set_up()
  assert checkout.installed().startswith('3.12: ')


def test_packages_are_installed_again_for_another_python(checkout):
  checkout.add_python('python3.11', '3.11')
  checkout.set_up()
  checkout.installed()
  # As `python3.12 -m venv .venv` by hand leaves it: the marker is there, the packages are not.
  checkout.add_python('python3.12', '3.12')
  shutil.copy(checkout.bin / 'python3.12', checkout.root / '.venv' / 'bin' / 'python')
  checkout.set_up()
  assert checkout.installed().startswith('3.12: ')


def test_an_environment_whose_python_is_gone_is_replaced(checkout):
  checkout.add_python('python3.11', '3.11')
  checkout.set_up()
  checkout.installed()
  python = checkout.root / '.venv' / 'bin' / 'python'
  python.unlink()
  python.symlink_to('/nowhere/python3.11')
  (checkout.root / '.venv' / 'old').touch()
  checkout.add_python('python3.12', '3.12')
  (checkout.bin / 'python3.11').unlink()
  checkout.set_up()
  assert checkout.installed().startswith('3.12: ')
  assert not (checkout.root / '.venv' / 'old').exists()


@pytest.mark.parametrize('version, alone', [('3.11', False), ('3.12', False), ('3.13', True)])
def test_dm_control_is_installed_without_labmaze_where_that_has_no_wheel(checkout, version, alone):
  checkout.add_python('python3', version)
  checkout.set_up()
  assert (f'{version}: --no-deps dm-control==1.0\n' in checkout.installed()) == alone


def test_envpool_is_installed_without_its_assets(checkout):
  checkout.add_python('python3', '3.12')
  checkout.set_up()
  assert '3.12: --no-deps envpool==1.0\n' in checkout.installed()


def test_an_nvidia_driver_brings_cuda(checkout):
  checkout.add_python('python3.11', '3.11')
  driver = checkout.bin / 'nvidia-smi'
  driver.write_text('#!/bin/bash\n')
  driver.chmod(0o755)
  checkout.set_up()
  assert 'tensorflow[and-cuda]==2.0' in checkout.installed()


def as_other_user(checkout, returncode=0):
  """What the script prints for a user who cannot write the checkout."""
  other_user.protect(checkout.root)
  # Looked up here, as the PATH of a checkout has nothing but the commands that the script needs.
  prefix = [shutil.which(word) or word for word in other_user.command()]
  return checkout.set_up(returncode, prefix)


def test_a_finished_environment_is_used_by_those_who_cannot_write_it(checkout):
  checkout.add_python('python3.11', '3.11')
  checkout.set_up()
  checkout.installed()
  (checkout.root / '.venv' / 'setup.lock').unlink()
  assert as_other_user(checkout) == ''
  assert not checkout.installed() and not (checkout.root / '.venv' / 'setup.lock').exists()


@pytest.mark.parametrize('is_there', [True, False])
def test_an_environment_to_be_set_up_by_those_who_cannot_write_it_is_refused(checkout, is_there):
  checkout.add_python('python3.11', '3.11')
  if is_there:
    checkout.set_up()
    (checkout.root / 'requirements.txt').write_text('tensorflow==2.1\n')
  checkout.installed()
  output = as_other_user(checkout, returncode=2)
  assert output.startswith(f'error: {checkout.root}/.venv is not set up for these requirements')
  assert output.count('\n') == 1 and not checkout.installed()


def test_an_environment_without_cuda_is_used_by_those_who_cannot_write_it(checkout):
  checkout.add_python('python3.11', '3.11')
  checkout.set_up()
  driver = checkout.bin / 'nvidia-smi'
  driver.write_text('#!/bin/bash\n')
  driver.chmod(0o755)
  output = as_other_user(checkout)
  assert output.startswith('warning: ') and 'the GPU stays unused' in output


def test_a_python_that_another_user_cannot_run_is_named(checkout):
  checkout.add_python('python3.11', '3.11')
  checkout.set_up()
  (checkout.root / '.venv' / 'bin' / 'python').chmod(0o644)
  output = as_other_user(checkout, returncode=2)
  assert f'{checkout.root}/.venv/bin/python cannot be run by this user' in output


def test_without_a_temporary_folder_nothing_is_installed(checkout):
  checkout.add_python('python3.11', '3.11')
  output = checkout.set_up(returncode=1, NO_TEMPORARY_FOLDER='1')
  assert 'error: there is no folder where temporary files can be written.' in output
  assert not checkout.installed()
  checkout.set_up()
  assert checkout.installed()
