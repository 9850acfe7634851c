#!/usr/bin/env bash
# From nothing to a report on a Cloud TPU VM or pod slice.
#   bash launch/tpu_vm.sh [run] FLAGS -- ARGUMENTS    creates the TPU VM if there is none, sends it the code in this folder,
#                                                     installs it, runs `python -m selectllm.main ARGUMENTS` on all workers,
#                                                     shows their logs, and fetches the run directory
#   bash launch/tpu_vm.sh fetch FLAGS -- ARGUMENTS    fetches the run directory
#   bash launch/tpu_vm.sh stop FLAGS                  lets the job save a checkpoint and end
#   bash launch/tpu_vm.sh down FLAGS                  deletes the TPU VM, and all that is on it
# Flags:
#   --zone=ZONE            where; needed
#   --name=NAME            of the TPU VM (and of its queued request); selectllm by default
#   --project=PROJECT      gcloud's own by default
#   --type=TYPE            what to create, such as v5litepod-16
#   --version=VERSION      of its software; what suits the type by default
#   --spot                 cheaper, and may be taken away at any time
#   --queued               wait in the queue until there is room; else creating fails where there is none
#   --create_flag=FLAG     passed on to gcloud's create, such as --create_flag=--network=mine; may be given again
#   --restarts=N           how often to go on after a preemption or a lost connection; 10 by default
#   --delete               delete the TPU VM in the end, whether the job succeeded (and its report was fetched) or failed
#   --dry_run              print the commands, run none
# A TPU VM costs money until it is deleted, also when nothing runs on it; without --delete it is kept for the next job. After a
# preemption it is created again, and the job goes on from its last checkpoint if --workdir is on gs://; workers of a pod
# slice share no disk, so there it must be. Ctrl-C leaves the job running: the same command finds it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly FAILED=64  # the status with which a worker says that the trouble is its own, not the connection's
readonly POLL_S=30 SETTLE_S=60  # a preemption shows in the state up to a minute after connections break
NAME=selectllm ZONE='' PROJECT='' TYPE='' VERSION='' SPOT='' QUEUED='' RESTARTS=10 DELETE='' DRY_RUN=''
CREATE_FLAGS=() WHERE=() WORKDIR='' VERB=run IS_THERE='' HAS_RUN='' INTERRUPTED=''
export CLOUDSDK_CORE_DISABLE_PROMPTS=1

say() { echo "tpu_vm.sh: $*" >&2; }
die() { say "$*" && exit 1; }

quote() {  # words as a shell reads them
  local word escaped="'\\''" line=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/"$escaped"}'"
    line="$line${line:+ }$word"
  done
  printf '%s' "$line"
}

show() { printf '%s\n' "$(quote "$@")" >&3; }

do_it() {
  show "$@"
  [[ -n "$DRY_RUN" ]] || "$@"
}

ask() {  # what a dry run takes for the answer, command: prints the answer, ABSENT where what it asks for does not exist
  local assumed="$1" answer tries="${IS_THERE:+5}"
  shift
  if [[ -n "$DRY_RUN" ]]; then
    show "$@" && echo "$assumed" && return 0
  fi
  until answer=$("$@" 2>"$ERRORS"); do
    if grep --quiet NOT_FOUND "$ERRORS"; then echo ABSENT && return 0; fi
    cat "$ERRORS" >&2
    tries=$((${tries:-1} - 1))  # once something runs, a hiccup of the network does not end it
    ((tries > 0)) || return 1
    sleep "$POLL_S"
  done
  echo "$answer"
}

tpu() { do_it gcloud compute tpus tpu-vm "$1" "${@:2}" "${WHERE[@]}"; }

on_workers() { tpu ssh "$NAME" --worker=all --command="$(quote bash tpu_worker.sh "$@")"; }

queued_state() {
  local assumed=ABSENT
  if [[ -n "$IS_THERE" && -n "$QUEUED" ]]; then assumed=ACTIVE; fi
  ask "$assumed" gcloud compute tpus queued-resources describe "$NAME" --format='value(state.state)' "${WHERE[@]}"
}

vm_state() {  # and the number of workers
  local assumed=ABSENT
  if [[ -n "$IS_THERE" ]]; then assumed=$'READY\t1'; fi
  ask "$assumed" gcloud compute tpus tpu-vm describe "$NAME" --format='value(state,networkEndpoints.len())' "${WHERE[@]}"
}

state() {  # of the request while it waits or has failed, else of the TPU VM, with its number of workers
  local queued vm
  queued=$(queued_state) || return 1
  if [[ "$queued" != ABSENT && "$queued" != ACTIVE ]]; then echo "$queued" && return 0; fi
  vm=$(vm_state) || return 1
  if [[ "$queued" == ACTIVE && "$vm" == ABSENT ]]; then vm=PREEMPTED; fi
  echo "$vm"
}

software() {
  case "$TYPE" in
    v5lite*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() {
  [[ -n "$TYPE" ]] || die "there is no $NAME in $ZONE; --type says what to create, such as --type=v5litepod-16"
  local version="${VERSION:-$(software)}" command=(gcloud compute tpus)
  if [[ -n "$QUEUED" ]]; then
    command+=(queued-resources create "$NAME" "--node-id=$NAME" "--runtime-version=$version")
  else
    command+=(tpu-vm create "$NAME" "--version=$version")
  fi
  command+=("--accelerator-type=$TYPE" ${SPOT:+--spot} ${CREATE_FLAGS[@]+"${CREATE_FLAGS[@]}"} "${WHERE[@]}")
  do_it "${command[@]}" || die "gcloud could not create $NAME; it says why. What $ZONE has: gcloud compute tpus" \
    "accelerator-types list --zone=$ZONE. Where there is no room now: --queued waits, --spot needs another quota."
}

bring_up() {  # until the TPU VM is ready
  local now before='' lost=0
  while true; do
    now=$(state)
    [[ "$now" == ABSENT ]] || IS_THERE=1
    case "$now" in
      READY*) break ;;
      ABSENT) create && IS_THERE=1 ;;
      PREEMPTED* | TERMINATED* | SUSPENDED)
        say "$NAME is ${now%%$'\t'*}; it is deleted, and created again"
        ((lost < RESTARTS)) || die "and this $((lost + 1)) times"
        lost=$((lost + 1))
        down
        ;;
      STOPPED*) tpu start "$NAME" ;;
      FAILED)
        gcloud compute tpus queued-resources describe "$NAME" --format='yaml(state)' "${WHERE[@]}" >&2
        die "the request for $NAME failed; the lines above say why. It takes up quota until: $(again down)"
        ;;
      *)
        [[ "$now" == "$before" ]] || say "$NAME: ${now%%$'\t'*}; waiting, which may take long (Ctrl-C leaves the request)"
        sleep "$POLL_S"
        ;;
    esac
    before="$now"
  done
  if ((${now#*$'\t'} > 1)) && [[ "$WORKDIR" != gs://* && "$WORKDIR" != /* ]]; then
    die "$NAME has ${now#*$'\t'} workers, which share no disk: --workdir must be on gs:// (or a mounted file system)," \
      "not $WORKDIR"
  fi
}

down() {
  local queued vm
  queued=$(queued_state) || return 1
  vm=$(vm_state) || return 1
  if [[ "$queued" != ABSENT ]]; then
    do_it gcloud compute tpus queued-resources delete "$NAME" --force "${WHERE[@]}" || return 1
  elif [[ "$vm" != ABSENT ]]; then
    tpu delete "$NAME" || return 1
  else
    say "there is no $NAME in $ZONE"
  fi
  IS_THERE='' HAS_RUN=''
}

pack() {  # once: the job goes on with the code that it began with
  do_it mkdir -p "build/$NAME"
  COPYFILE_DISABLE=1 do_it tar -czf "build/$NAME/selectllm.tgz" --exclude=./.git --exclude=./runs --exclude=./build \
    --exclude='./.venv*' --exclude=__pycache__ --exclude='./.*_cache' --exclude='./*.egg-info' .
}

attempt() {
  tpu scp "build/$NAME/selectllm.tgz" launch/tpu_worker.sh "$NAME:" --worker=all && on_workers install &&
    HAS_RUN=1 && on_workers run "$@"
}

is_finished() {
  if [[ "$WORKDIR" == gs://* ]]; then
    do_it gcloud storage ls "$WORKDIR/report.json" >/dev/null
  else
    tpu ssh "$NAME" --worker=0 --command="cd selectllm && test -e $(quote "$WORKDIR/report.json")"
  fi
}

judge() {  # status of an attempt: says why there will be another one, or ends here
  local status="$1" now
  if [[ "$status" != "$FAILED" || -n "$SPOT" ]]; then sleep "$SETTLE_S"; fi
  now=$(state)
  if [[ "$now" != READY* ]]; then
    say "$NAME has been taken away (${now%%$'\t'*}). The job goes on from its last checkpoint if $WORKDIR is not on the" \
      'TPU VM, else it begins anew.'
  elif ((status == FAILED)); then
    die 'the job failed; its log above says why'
  elif ((status)); then
    say "The connection broke (gcloud ended with $status); connecting again"
  else
    say 'The job ended before its report was written, as it does when it is told to end; it goes on'
  fi
}

run() {
  local restarts=0 status
  pack
  while true; do
    bring_up
    status=0
    attempt "$@" || status=$?
    if ((status == 0)) && is_finished; then return 0; fi
    judge "$status"
    ((restarts < RESTARTS)) || die "and this $((restarts + 1)) times; --restarts=N allows more than $RESTARTS"
    restarts=$((restarts + 1))
  done
}

fetch() {
  case "$WORKDIR" in
    gs://*) say "The run directory: $WORKDIR (gcloud storage rsync --recursive $(quote "$WORKDIR") FOLDER)" ;;
    /*) say "The run directory is on the workers, in $WORKDIR" ;;
    *)
      do_it mkdir -p "$(dirname "$WORKDIR")" &&
        tpu scp --recurse "$NAME:selectllm/$WORKDIR" "$(dirname "$WORKDIR")/" --worker=0 &&
        say "The run directory: $WORKDIR"
      ;;
  esac
}

again() { quote bash launch/tpu_vm.sh "$1" "--name=$NAME" "${WHERE[@]}"; }

wrap_up() {  # status of the run: fetches, and deletes or says what keeps costing money
  local status="$1"
  if [[ -n "$HAS_RUN" ]] && ! fetch; then
    say 'The run directory could not be fetched.'
    if ((status == 0)); then return 1; fi  # the only copy of a report is not thrown away
  fi
  if [[ -n "$DELETE" ]]; then down || return 1; fi
  return "$status"
}

finish() {  # runs when the script ends, for whatever reason; a bare `return` in it would give the status from before
  local status=$?
  rm -f "$ERRORS"
  if [[ "$VERB" == run && -n "$IS_THERE" ]]; then
    if [[ -n "$INTERRUPTED" ]]; then
      say "What was asked for or is running goes on; the same command finds it again. To end a job: $(again stop)"
    else
      wrap_up "$status" || status=$?
    fi
    [[ -z "$IS_THERE" ]] || say "$NAME costs money until: $(again down)"
  fi
  exit "$status"
}

parse() {
  case "${1:-}" in run | fetch | stop | down) VERB="$1" && shift ;; esac
  while (($#)); do
    case "$1" in
      --zone=*) ZONE="${1#*=}" ;;
      --name=*) NAME="${1#*=}" ;;
      --project=*) PROJECT="${1#*=}" ;;
      --type=*) TYPE="${1#*=}" ;;
      --version=*) VERSION="${1#*=}" ;;
      --spot) SPOT=1 ;;
      --queued) QUEUED=1 ;;
      --create_flag=*) CREATE_FLAGS+=("${1#*=}") ;;
      --restarts=*) RESTARTS="${1#*=}" ;;
      --delete) DELETE=1 ;;
      --dry_run) DRY_RUN=1 ;;
      --) shift && break ;;
      *) die "no such flag: $1. The job's arguments come after --; the flags stand at the top of launch/tpu_vm.sh" ;;
    esac
    shift
  done
  [[ -n "$ZONE" ]] || die '--zone is needed, such as --zone=us-west4-a'
  [[ "$RESTARTS" =~ ^[0-9]+$ ]] || die "--restarts=$RESTARTS is no number"
  WHERE=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
  # Workers are the processes of one job; and all attempts take the same run directory.
  WORKDIR="runs/$NAME"
  ARGUMENTS=("--workdir=$WORKDIR" "$@" --config.mesh.distributed=True)
  while (($#)); do
    case "$1" in
      --workdir=* | -workdir=*) WORKDIR="${1#*=}" ;;
      --workdir | -workdir) WORKDIR="${2:-}" ;;
    esac
    shift
  done
  WORKDIR="${WORKDIR%/}"
}

parse "$@"
if [[ -n "$DRY_RUN" ]]; then exec 3>&1; else exec 3>&2; fi
if [[ -z "$DRY_RUN" ]]; then
  command -v gcloud >/dev/null || die 'gcloud is not installed: https://cloud.google.com/sdk/docs/install'
  [[ -n "$PROJECT" || -n "$(gcloud config get project 2>/dev/null)" ]] ||
    die 'no project: --project=PROJECT, or gcloud config set project PROJECT'
fi
ERRORS=$(mktemp)
trap finish EXIT
trap 'INTERRUPTED=1 && exit 130' INT TERM
case "$VERB" in
  run) run "${ARGUMENTS[@]}" ;;
  fetch) fetch ;;
  stop) on_workers stop ;;
  down)
    if [[ -n "$DRY_RUN" ]]; then IS_THERE=1; fi
    down
    ;;
esac
