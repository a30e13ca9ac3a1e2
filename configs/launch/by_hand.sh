#!/usr/bin/env bash
# Ranks by plain variables, without any launcher.
#
#   by_hand.sh RECIPE [key=value...]        2 ranks on this machine
#   LOCAL_RANKS=8 by_hand.sh RECIPE         8 ranks on this machine
#
# On several machines, start it on each, with the run folder on a disk that all of them share:
#   node1$ WORLD_SIZE=16 LOCAL_RANKS=8 FIRST_RANK=0 MASTER_ADDR=node1 MASTER_PORT=29500 by_hand.sh RECIPE
#   node2$ WORLD_SIZE=16 LOCAL_RANKS=8 FIRST_RANK=8 MASTER_ADDR=node1 MASTER_PORT=29500 by_hand.sh RECIPE
#
# SIGTERM, SIGUSR1 and Ctrl-C go on to the ranks of this machine; one rank is enough for all of them
# to finish the step, save and exit with 75. Ends with 0, with 75, or with the code of the first rank
# that failed. Nothing is restarted: run it again to go on from the last checkpoint.
#
# KEIKO    the program; default: keiko on the PATH
# GRACE_S  how long the others may go on after a rank failed, before SIGKILL; default 30. They notice
#          by themselves when its connections break, and a rank that waits for one that never came is
#          not worth waiting for.
set -u

local_ranks=${LOCAL_RANKS:-2}
first=${FIRST_RANK:-0}
export WORLD_SIZE=${WORLD_SIZE:-$local_ranks} LOCAL_WORLD_SIZE=$local_ranks
export MASTER_ADDR=${MASTER_ADDR:-127.0.0.1} MASTER_PORT=${MASTER_PORT:-29500}

declare -A rank_of # by process
for ((i = 0; i < local_ranks; i++)); do
  RANK=$((first + i)) LOCAL_RANK=$i "${KEIKO:-keiko}" train "$@" &
  rank_of[$!]=$((first + i))
done
trap 'kill -USR1 "${!rank_of[@]}" 2> /dev/null' TERM USR1 INT

code=0 reaper=
while [ ${#rank_of[@]} -gt 0 ]; do
  ended=
  wait -n -p ended "${!rank_of[@]}"
  status=$?
  [ -n "${ended:-}" ] || continue # a signal came, and has been passed on
  rank=${rank_of[$ended]}
  unset "rank_of[$ended]"
  [ $status = 0 ] && continue
  echo "by_hand.sh: rank $rank ended with $status" >&2
  if [ $code = 0 ] || [ $code = 75 ]; then code=$status; fi
  if [ $status != 75 ] && [ -z "$reaper" ] && [ ${#rank_of[@]} -gt 0 ]; then
    (sleep "${GRACE_S:-30}" && kill -KILL "${!rank_of[@]}") 2> /dev/null &
    reaper=$!
  fi
done
[ -z "$reaper" ] || kill "$reaper" 2> /dev/null
exit $code
