#!/usr/bin/env bash
# Ranks under torchrun, which starts them again when one dies.
#
#   torchrun.sh RECIPE [key=value...]                                              2 ranks on this machine
#   TORCHRUN_OPTIONS="--standalone --nproc-per-node 8 --max-restarts 5" torchrun.sh RECIPE
#
# On several machines, start it on each, with the run folder on a disk that all of them share:
#   TORCHRUN_OPTIONS="--nnodes 2 --nproc-per-node 8 --max-restarts 5 --rdzv-backend c10d
#     --rdzv-endpoint node1:29500 --rdzv-id night" torchrun.sh RECIPE
#
# What torchrun does by itself:
# - A rank dies: it sends SIGTERM to the others, SIGKILL 30 s later, and starts all of them again, up to
#   --max-restarts times. They go on from the last checkpoint.
# - Every exit code but 0 counts as a death. A rank that saved and left with 75, because its machine is
#   about to go away, would be started again at once.
# - SIGTERM to torchrun: SIGTERM to the ranks, SIGKILL 30 s later, exit code 1. SIGUSR1 kills it, and
#   leaves the ranks behind.
#
# So this script puts a shell around each rank. It tells torchrun 0 when the rank says 75 (preempted
# and saved) or 3 (too much bad data): all ranks leave with these at the same step, and starting again
# would be wrong. SIGTERM, SIGUSR1 and Ctrl-C go to the ranks and not to torchrun, so that there is no
# limit of 30 s. Ends with 0, 75, 3, or torchrun's own code (1).
#
# KEIKO  the program; default: keiko on the PATH. TORCHRUN likewise.
set -u

# A rank: torchrun starts this script again, with the folder where ranks leave their number and code.
if [ "${1:-}" = --as-rank ]; then
  folder=$2
  shift 2
  rm -f "$folder/$RANK.code"
  # Killed with this shell, or a SIGKILL by torchrun would leave the rank running.
  setpriv --pdeathsig KILL "$@" &
  rank=$!
  trap 'kill -USR1 $rank 2> /dev/null' TERM USR1 INT
  echo $$ > "$folder/$RANK.pid"
  while kill -0 $rank 2> /dev/null; do wait $rank; done # a signal ends `wait`, not the rank
  wait $rank
  code=$?
  rm -f "$folder/$RANK.pid"
  echo $code > "$folder/$RANK.code"
  case $code in
    3 | 75) exit 0 ;; # all ranks end with these together
    2)                # a wrong recipe: only where all of them said so, or the others would wait
      for _ in $(seq 50); do
        [ "$(grep -lsx 2 "$folder"/*.code | wc -l)" = "${WORLD_SIZE:-0}" ] && exit 0
        sleep 0.1
      done
      exit 2
      ;;
    *) exit $code ;;
  esac
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# shellcheck disable=SC2086  # several options in one variable
"${TORCHRUN:-torchrun}" ${TORCHRUN_OPTIONS:---standalone --nproc-per-node 2 --max-restarts 3} --no-python \
  "$(realpath "$0")" --as-rank "$folder" "${KEIKO:-keiko}" train "$@" &
torchrun=$!
trap 'cat "$folder"/*.pid 2> /dev/null | xargs -r kill -USR1 2> /dev/null' TERM USR1 INT
while kill -0 $torchrun 2> /dev/null; do wait $torchrun; done
wait $torchrun
code=$?
if [ $code = 0 ]; then
  for agreed in 2 3 75; do
    if grep -qsx $agreed "$folder"/*.code; then code=$agreed; fi
  done
fi
exit $code
