# Functions for end-to-end tests in bash, which source this file. Their working directory is an empty folder.
# shellcheck shell=bash
set -euo pipefail

# expect STATUS COMMAND...: runs the command, prints its output and keeps it in `output`; fails on another status.
output=
expect() {
  local wanted=$1 status=0
  shift
  printf '$ %s\n' "$*"
  output=$("$@" 2>&1) || status=$?
  printf '%s\n' "$output"
  if ((status != wanted)); then
    printf 'FAILED: status %d instead of %d: %s\n' "$status" "$wanted" "$*"
    exit 1
  fi
}

# says TEXT...: fails unless the last output contains every TEXT.
says() {
  local text
  for text in "$@"; do
    [[ $output == *"$text"* ]] || {
      printf 'FAILED: this is not in the output: %s\n' "$text"
      exit 1
    }
  done
}

conclave() { expect "$1" "$CONCLAVE_PROGRAM" "${@:2}"; }
# on_ranks N STATUS ARGUMENTS...
on_ranks() { expect "$2" mpirun --oversubscribe -n "$1" "$CONCLAVE_PROGRAM" "${@:3}"; }
