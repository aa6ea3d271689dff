# Makes .venv and installs requirements.txt into it, unless that is done. Sourced by the commands
# beside it, which then find the repository in $root and its environment in $venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
supported_versions=(3.11 3.12 3.13)

# Prints the version of the Python $1, such as 3.12. Fails if it cannot be run.
version_of() {
  # That a command exists says little: pyenv's python3.12 fails while another version is selected.
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints the version of the Python $1. Fails if it cannot be run or is not supported.
supported_version() {
  local version supported
  version=$(version_of "$1") || return 1
  for supported in "${supported_versions[@]}"; do
    if [ "$version" = "$supported" ]; then
      echo "$version"
      return
    fi
  done
  return 1
}

# Prints its arguments with commas between them.
comma_separated() {
  local text
  text=$(printf ', %s' "$@")
  echo "${text:2}"
}

# Prints the command of the first supported Python.
find_python() {
  local candidate candidates=("${supported_versions[@]/#/python}" python3 python)
  local versions tried version others=()
  for candidate in "${candidates[@]}"; do
    if supported_version "$candidate" >/dev/null; then
      echo "$candidate"
      return
    fi
    if version=$(version_of "$candidate"); then others+=("$candidate is $version"); fi
  done
  tried=$(comma_separated "${candidates[@]}")
  versions=$(comma_separated "${supported_versions[@]}")
  if [ "${#others[@]}" -gt 0 ]; then tried="$tried; $(comma_separated "${others[@]}")"; fi
  echo "error: no supported Python was found (tried $tried)." \
    "Install one of the versions $versions and put it on the PATH." >&2
  return 1
}

# Prints the requirements of this machine: with an NVIDIA driver, TensorFlow's CUDA libraries too.
requirements() {
  local tensorflow
  cat "$root/requirements.txt"
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    tensorflow=$(sed -n 's/^tensorflow==//p' "$root/requirements.txt")
    echo "tensorflow[and-cuda]==$tensorflow"
  fi
}

# Makes $venv, unless its Python works; that it is not the one find_python prefers does not matter.
make_venv() {
  local python
  if supported_version "$venv/bin/python" >/dev/null && [ -x "$venv/bin/pip" ]; then
    return
  fi
  python=$(find_python)
  # `venv --clear` would delete the lock, which this process holds.
  find "$venv/" -mindepth 1 -maxdepth 1 ! -name setup.lock -exec rm -rf {} +
  "$python" -m venv "$venv"
}

# Installs the requirements $1 into $venv, whose Python has the version $2.
install_requirements() {
  local alone dm_control pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" -r <(echo "$1")
  # EnvPool depends on 600 MB of files for games that other packages have.
  alone=$(sed -n 's/^# Without its dependencies: //p' <<< "$1")
  if [ -n "$alone" ]; then "${pip[@]}" --no-deps "$alone"; fi
  if [ "$2" = 3.13 ]; then
    # dm-control requires labmaze, which has no wheel for Python 3.13 and needs bazel to build. Only
    # locomotion's mazes import it, the Control Suite does not.
    dm_control=$(sed -n 's/^\(dm-control==[^;]*\);.*/\1/p' "$root/requirements.txt")
    "${pip[@]}" --no-deps "$dm_control"
  fi
}

# Whether the requirements $1 are installed in $venv, and its Python can be run.
is_set_up() {
  local version
  version=$(supported_version "$venv/bin/python") && [ -f "$venv/installed.txt" ] &&
    [ "$(cat "$venv/installed.txt")" = "# Python $version"$'\n'"$1" ]
}

# Fails with a message if the Python $1 finds no folder for temporary files.
expect_temporary_folder() {
  if ! "$1" -c 'import tempfile; tempfile.gettempdir()' >/dev/null 2>&1; then
    echo "error: there is no folder where temporary files can be written. Make some room in /tmp," \
      "or set TMPDIR to a folder that this user can write." >&2
    return 1
  fi
}

# Ends with a message, unless what $venv holds will do although this user cannot change it.
use_as_it_is() {
  if is_set_up "$(cat "$root/requirements.txt")"; then
    echo "warning: $venv was set up on a machine without an NVIDIA driver and cannot be written:" \
      "the GPU stays unused." >&2
  elif [ -f "$venv/installed.txt" ] && ! version_of "$venv/bin/python" >/dev/null; then
    echo "error: $venv/bin/python cannot be run by this user. Copy the repository to a folder of" \
      "your own, or ask the owner for a Python that all users can run." >&2
    exit 2
  else
    echo "error: $venv is not set up for these requirements, and this user cannot write it. Let the" \
      "owner run scripts/train --help once, or copy the repository to a folder of your own." >&2
    exit 2
  fi
}

# Sets up $venv for the requirements $1.
set_up() {
  local wanted=$1 version
  # Another process may have done it while this one waited.
  if is_set_up "$wanted"; then return; fi
  echo "Setting up $venv (once; takes a minute or two) ..."
  make_venv
  expect_temporary_folder "$venv/bin/python"
  version=$(supported_version "$venv/bin/python")
  install_requirements "$wanted" "$version"
  # Renamed when complete: a setup that was interrupted starts again.
  echo "# Python $version"$'\n'"$wanted" > "$venv/installed.txt.new"
  mv "$venv/installed.txt.new" "$venv/installed.txt"
}

wanted=$(requirements)
if ! is_set_up "$wanted"; then
  if mkdir -p "$venv" 2>/dev/null && [ -w "$venv" ]; then
    # One at a time: several processes of a run may start at once, on machines that share $root.
    exec 9> "$venv/setup.lock"
    if command -v flock >/dev/null; then flock 9; fi
    set_up "$wanted"
    exec 9>&-
  else
    use_as_it_is
  fi
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
