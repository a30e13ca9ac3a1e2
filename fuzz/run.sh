#!/usr/bin/env bash
# Builds the fuzz preset, makes its seeds, and runs targets; ctest calls it for a short run of each.
#
#   fuzz/run.sh build                        build/fuzz, and its seeds
#   fuzz/run.sh TARGET RUNS [OPTION...]      a target by name; options go to libFuzzer
#   fuzz/run.sh mutate_videos COUNT [OPTION...]   damaged videos: the seeds, and $KEIKO_TEST_MEDIA
#
# New inputs are kept in build/fuzz/corpus/TARGET, findings in build/fuzz/findings.
# Exit code 77: this machine cannot fuzz, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/fuzz
what="${1:?usage: fuzz/run.sh build | TARGET RUNS | mutate_videos COUNT}"
shift

if ! command -v clang++ > /dev/null; then
  echo "fuzz: SKIPPED: there is no clang++; scripts/setup.sh --tests installs it"
  exit 77
fi
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
  clang++ -x c++ -fsanitize=fuzzer,address -o /dev/null - 2> /dev/null; then
  echo "fuzz: SKIPPED: this clang has no libFuzzer; install libclang-rt-dev (scripts/setup.sh --tests)"
  exit 77
fi
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"

if [ "$what" = build ]; then
  mkdir -p build
  if ! cmake --preset fuzz > build/fuzz-configure.log 2>&1; then
    cat build/fuzz-configure.log
    exit 1
  fi
  cmake --build $build
  exec fuzz/make_seeds.sh $build
fi

count="${1:?how many runs?}"
shift
corpus="$build/corpus/$what"
if [[ "$*" == *-seed=* ]]; then
  # The same inputs every time: nothing that an earlier run has found.
  corpus="$build/corpus/short-$what"
  rm -rf "$corpus"
fi
mkdir -p "$build/findings" "$corpus"
if [ "$what" = mutate_videos ]; then
  media=()
  for folder in edge real; do
    [ -n "${KEIKO_TEST_MEDIA:-}" ] && [ -d "$KEIKO_TEST_MEDIA/$folder" ] &&
      media+=("$KEIKO_TEST_MEDIA/$folder")
  done
  exec $build/fuzz/mutate_videos "${media[@]}" $build/seeds/video --count "$count" \
    --keep $build/findings "$@"
fi
# libFuzzer's own exit code for a finding is 77, which would read as "cannot fuzz here".
dictionary=fuzz/video.dict
[ ! -e "fuzz/$what.dict" ] || dictionary="fuzz/$what.dict"
exec "$build/fuzz/${what}_fuzz" -runs="$count" -dict="$dictionary" -timeout=120 -rss_limit_mb=2048 \
  -malloc_limit_mb=1024 -error_exitcode=1 -artifact_prefix="$build/findings/$what-" \
  -print_final_stats=1 "$@" "$corpus" "$(readlink -f "$build/seeds/$what")"
