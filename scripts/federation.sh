# The processes of a federation on one machine; sourced, with `folder` set, where their logs are.
# shellcheck shell=bash

declare -A processes
# shellcheck disable=SC2317  # trap calls it
end_processes() {
  trap - EXIT
  for process in "${processes[@]}"; do kill -KILL "$process" 2>/dev/null || true; done
}
trap end_processes EXIT
trap 'exit 130' INT TERM HUP

# start NAME COMMAND...: with its output in a log of that name.
start() {
  local name=$1
  shift
  printf '+ %s &\n' "$*"
  "$@" >>"$folder/$name.log" 2>&1 &
  processes[$name]=$!
}

# until_says NAME TEXT: waits for it in the log of a process.
until_says() {
  until grep -q "$2" "$folder/$1.log"; do
    kill -0 "${processes[$1]}" 2>/dev/null || fail "$1 has ended: $(tail -n 3 "$folder/$1.log")"
    sleep 0.2
  done
}

# Waits for the coordinator's port, and shows from there on what it says.
show_coordinator() {
  until_says coordinator 'listens at port'
  port=$(sed -n 's/.*listens at port //p' "$folder/coordinator.log")
  tail -n +1 -f "$folder/coordinator.log" &
  processes[tail]=$!
}

# until_ends NAME...: all of them, well.
until_ends() {
  local name
  for name in "$@"; do
    wait "${processes[$name]}" || fail "$name failed: $(tail -n 3 "$folder/$name.log")"
    unset "processes[$name]"
  done
}
