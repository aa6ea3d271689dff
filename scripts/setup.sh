# Makes .venv and installs requirements.txt into it, if that is not done yet. Sourced by the commands beside it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

find_python() {
  for candidate in python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 is needed and was not found (tried python3.11, python3, python)." >&2
  return 1
}

set_up() {
  local tensorflow wanted
  tensorflow=$(sed -n 's/^tensorflow==//p' "$root/requirements.txt")
  wanted=$(cat "$root/requirements.txt")
  # With an NVIDIA driver, TensorFlow's CUDA libraries come from pip too.
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    wanted+=$'\n'"tensorflow[and-cuda]==$tensorflow"
  fi
  if [ -f "$venv/installed.txt" ] && [ "$(cat "$venv/installed.txt")" = "$wanted" ]; then
    return
  fi
  echo "Setting up $venv (once; takes a minute or two) ..."
  "$(find_python)" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r <(echo "$wanted")
  echo "$wanted" > "$venv/installed.txt.new"
  mv "$venv/installed.txt.new" "$venv/installed.txt"
}

# One after the other: several processes of one run may start at once, on machines that share this folder.
mkdir -p "$venv"
exec 9> "$venv/setup.lock"
if command -v flock >/dev/null; then flock 9; fi
set_up
exec 9>&-
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
