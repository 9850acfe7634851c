#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on each worker of a TPU VM, where it lies beside selectllm.tgz, the code.
#   bash tpu_worker.sh install          unpacks the code and installs it, unless a job is running
#   bash tpu_worker.sh run ARGUMENTS    starts the main job, or finds it running, and shows its log until it ends
#   bash tpu_worker.sh stop             lets the job save a checkpoint and end
# The job does not hang on the connection: where that is lost, the same `run` finds it again. Whatever fails here, and not
# on the way here, ends with 64.
set -euo pipefail
cd "$HOME"
readonly JOB=selectllm_job FAILED=64
trap '(($? == 0)) || exit "$FAILED"' EXIT

is_running() { [[ -e "$JOB/lock" ]] && ! flock --nonblock "$JOB/lock" true; }

install_python() {  # the images of TPU VMs come with Python 3.10, and apt is often busy just after they have started
  echo 'Installing Python 3.12' >&2
  python3 -m pip install --quiet --user 'uv>=0.7,<1'
  python3 -m uv --quiet python install 3.12
  PYTHON=$(python3 -m uv python find 3.12)
  export PYTHON
}

install() {
  if is_running; then
    echo 'A job is running here: the code stays as it is.' >&2
    return
  fi
  mkdir -p selectllm
  find selectllm -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs -exec rm -rf {} +
  tar -xzf selectllm.tgz -C selectllm
  cd selectllm
  # shellcheck source=launch/install.sh
  source launch/install.sh
  find_python >/dev/null 2>&1 || install_python
  install_selectllm tpu
}

job() {  # in a session of its own
  trap : TERM  # when the machine is taken away all processes are told; the job then saves a checkpoint, which takes a moment
  cd selectllm
  local status=0
  .venv/bin/python -m selectllm.main "$@" || status=$?
  echo "$status" >"../$JOB/status"
}

start() {
  local arguments there
  arguments=$(printf '%q ' "$@")
  mkdir -p "$JOB"
  there=$(cat "$JOB/arguments" 2>/dev/null || true)
  exec 9>>"$JOB/lock"
  if ! flock --nonblock 9; then
    if [[ "$there" != "$arguments" ]]; then
      echo "Another job is running here: $there. Wait for it, or stop it." >&2
      exit "$FAILED"
    fi
  elif [[ "$there" != "$arguments" || ! -e "$JOB/status" || -e "$JOB/stopped" ]]; then  # else it ended while nobody watched
    rm -f "$JOB/status" "$JOB/stopped"
    echo "$arguments" >"$JOB/arguments"
    : >"$JOB/log"
    setsid bash "$0" job "$@" </dev/null >>"$JOB/log" 2>&1 &  # it inherits the lock
    echo "$!" >"$JOB/pid"
  fi
  exec 9>&-
}

follow() {
  local worker="${HOSTNAME##*-}" status
  tail --lines=+1 --follow --sleep-interval=0.2 --pid="$(cat "$JOB/pid")" "$JOB/log" | sed --unbuffered "s/^/[worker $worker] /"
  status=$(cat "$JOB/status" 2>/dev/null || echo 137)  # killed before it could be noted
  rm -f "$JOB/arguments"
  if [[ -e "$JOB/stopped" ]]; then
    echo "[worker $worker] The job was stopped; the same command goes on." >&2
    return 1
  fi
  if ((status)); then echo "[worker $worker] The job ended with status $status." >&2; fi
  return "$status"
}

main() {
  case "${1:-}" in
    install) install ;;
    run) start "${@:2}" && follow ;;
    job) job "${@:2}" ;;
    stop) if is_running; then touch "$JOB/stopped" && kill -TERM -- "-$(cat "$JOB/pid")"; fi ;;
    *) echo "tpu_worker.sh install, run or stop, not ${1:-nothing}" >&2 && exit 1 ;;
  esac
}

main "$@" && exit  # on one line: the file may be written anew while a job runs
