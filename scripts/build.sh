#!/usr/bin/env bash
# Sets up, configures and builds the release preset. Quiet when nothing is to do.
#
#   scripts/build.sh [--tests]    with --tests: also what the tests need; in CI warnings are errors
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh "$@"
tests=OFF
[ "${1:-}" = --tests ] && tests=ON
home="${KEIKO_HOME:-$HOME/.cache/keiko}"
torch="${KEIKO_TORCH:-$(echo "$home"/torch-2.11.0/lib/python3*/site-packages/torch)}"
options=("-DKEIKO_TORCH=$torch")
# Left as it is otherwise: another setting compiles everything again.
[ -z "${CI:-}" ] || options+=(-DKEIKO_WERROR=ON)
# The demo builds no tests, but does not take them out of a tree that has them.
[ $tests = ON ] || [ ! -e build/release/CMakeCache.txt ] && options+=("-DKEIKO_TESTS=$tests")
log=build/configure.log
mkdir -p build
if ! cmake --preset release "${options[@]}" > $log 2>&1; then
  cat $log >&2
  exit 1
fi
target=(all)
[ $tests = ON ] || target=(keiko)
# ninja -n tells whether anything is to do without doing it.
if ! cmake --build build/release --target "${target[@]}" -- -n | grep -q 'no work to do'; then
  echo "build: compiling (several minutes the first time)"
  cmake --build build/release --target "${target[@]}"
fi
