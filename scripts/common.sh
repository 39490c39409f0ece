# Functions for the other scripts, which source this file.
# shellcheck shell=bash

# Prints a command in the form in which it could be typed, then runs it.
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

# source_files PATTERN...: the names of this repository's files that match, for xargs -0. Patterns are of names without
# folders. Called in the repository's root. In a copy of the sources that is no git repository, all folders but build and
# hidden ones are searched.
source_files() {
  local here pattern conditions=(-false)
  here=$(pwd -P)
  # safe.directory: otherwise git refuses another user's repository, for example a host's in a container.
  local git=(git -c safe.directory="$here")
  if [[ $("${git[@]}" rev-parse --show-toplevel 2>/dev/null) == "$here" ]]; then
    "${git[@]}" ls-files -z -- "$@"
    return
  fi
  for pattern in "$@"; do conditions+=(-o -name "$pattern"); done
  find . \( -path './.?*' -o -path ./build \) -prune -o -type f \( "${conditions[@]}" \) -print0
}

# build PRESET "TARGETS" [CONFIGURE OPTIONS...]
build() {
  local preset=$1 targets
  read -ra targets <<<"$2"
  shift 2
  if [[ ! -f build/$preset/CMakeCache.txt ]] && command -v ninja >/dev/null; then
    export CMAKE_GENERATOR=Ninja
  fi
  run cmake --preset "$preset" --log-level=NOTICE "$@"
  run cmake --build --preset "$preset" --target "${targets[@]}" -j "$(nproc)"
}

# start_ranks OPTIONS... COMMAND...: runs mpirun with these arguments, then ends the script with its status.
#
# On Ctrl-C, mpirun kills its ranks a second or two later, even while they write a file, and exits with status 1. Its
# odls_base_sigkill_timeout would delay the notice to the ranks as much as the kill. So mpirun runs outside the
# terminal's foreground group, and Ctrl-C is passed to its ranks on this machine, which notify the others. conclave then
# finishes its step, saves a checkpoint, and exits with status 130, and so does the script. A second Ctrl-C terminates
# mpirun.
mpirun='' signals=0
start_ranks() {
  trap on_signal INT TERM HUP
  printf '+ mpirun'
  printf ' %q' "$@"
  printf '\n'
  # setsid: leaves the terminal's foreground group, which receives Ctrl-C
  setsid mpirun "$@" </dev/null &
  mpirun=$!
  local status
  while true; do
    status=0
    wait "$mpirun" || status=$?  # returns early on a signal
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

# Open MPI refuses to run as root unless both are set; containers and CI often have no other user.
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
