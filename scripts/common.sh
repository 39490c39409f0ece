# What the scripts share; sourced.
# shellcheck shell=bash

# Prints a command as one could type it, then runs it.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# build PRESET TARGET [CONFIGURE OPTIONS...]
build() {
  local preset=$1 target=$2
  shift 2
  if [[ ! -f build/$preset/CMakeCache.txt ]] && command -v ninja >/dev/null; then
    export CMAKE_GENERATOR=Ninja
  fi
  run cmake --preset "$preset" --log-level=NOTICE "$@"
  run cmake --build --preset "$preset" --target "$target" -j "$(nproc)"
}

# start_ranks OPTIONS... COMMAND...: mpirun with these, and the end of this script with its status.
#
# mpirun itself answers Ctrl-C by killing its ranks a second or two later, in the middle of whatever they are
# writing, and by status 1; its odls_base_sigkill_timeout delays the notice to the ranks as much as the kill.
# So mpirun is kept out of the terminal's reach, and Ctrl-C goes to its ranks on this machine, who tell the
# others: conclave then finishes its step, saves a checkpoint, and exits with status 130, as does the script. A
# second Ctrl-C leaves it to mpirun.
mpirun='' signals=0
start_ranks() {
  trap on_signal INT TERM HUP
  printf '+ mpirun'
  printf ' %q' "$@"
  printf '\n'
  # setsid: out of the terminal's foreground group, to which Ctrl-C goes
  setsid mpirun "$@" </dev/null &
  mpirun=$!
  local status
  while true; do
    status=0
    wait "$mpirun" || status=$?  # returns early when a signal came
    kill -0 "$mpirun" 2>/dev/null || break
  done
  if ((signals > 0)); then exit 130; fi
  exit "$status"
}

# shellcheck disable=SC2317  # trap calls it
on_signal() {
  [[ -n $mpirun ]] || exit 130
  signals=$((signals + 1))
  if ((signals == 1)); then
    echo "${0##*/}: the ranks finish their step and save; Ctrl-C again stops them at once" >&2 || true
    local status
    for status in /proc/[0-9]*/status; do
      if grep -qsx "PPid:[[:space:]]*$mpirun" "$status"; then
        status=${status%/status}
        kill -INT "${status#/proc/}" 2>/dev/null || true
      fi
    done
  else
    kill -TERM "$mpirun" 2>/dev/null || true
  fi
}

# Open MPI refuses to run as root unless told twice; containers and CI often have no other user.
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
