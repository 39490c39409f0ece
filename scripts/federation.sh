# Functions for the processes of a federation on one machine. Sourced by scripts that set `folder`, for the logs.
# shellcheck disable=SC2154,SC2034  # the sourcing script sets folder and uses port
# shellcheck shell=bash

declare -A processes
# shellcheck disable=SC2317  # trap calls it
end_processes() {
  trap - EXIT
  for process in "${processes[@]}"; do kill -KILL "$process" 2>/dev/null || true; done
}
trap end_processes EXIT
trap 'exit 130' INT TERM HUP

# start NAME COMMAND...: starts the command in the background, with its output in $folder/NAME.log.
start() {
  local name=$1
  shift
  printf '+ %s &\n' "$*"
  "$@" >>"$folder/$name.log" 2>&1 &
  processes[$name]=$!
}

# until_says NAME TEXT: waits until the log of a process contains TEXT.
until_says() {
  until grep -q "$2" "$folder/$1.log"; do
    kill -0 "${processes[$1]}" 2>/dev/null || fail "$1 has ended: $(tail -n 3 "$folder/$1.log")"
    sleep 0.2
  done
}

# Waits for the coordinator's port, sets `port`, and prints the coordinator's log from then on.
show_coordinator() {
  until_says coordinator 'listens at port'
  port=$(sed -n 's/.*listens at port //p' "$folder/coordinator.log")
  tail -n +1 -f "$folder/coordinator.log" &
  processes[tail]=$!
}

# until_ends NAME...: waits until all processes have succeeded. If one fails, the wait ends, as others may wait for it.
until_ends() {
  local names=("$@") name left
  while ((${#names[@]} > 0)); do
    left=()
    for name in "${names[@]}"; do
      if kill -0 "${processes[$name]}" 2>/dev/null; then
        left+=("$name")
      else
        wait "${processes[$name]}" || fail "$name failed: $(tail -n 3 "$folder/$name.log")"
        unset "processes[$name]"
      fi
    done
    names=("${left[@]}")
    sleep 0.2
  done
}
