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

# Open MPI refuses to run as root unless told twice; containers and CI often have no other user.
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
