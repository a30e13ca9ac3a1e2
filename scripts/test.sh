#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#
# KEIKO_TEST_MEDIA  folder with real/ and edge/ videos; without it those tests are skipped, loudly
# KEIKO_GOLDEN      folder of model fixtures; the same
# Arguments go to ctest, for example: scripts/test.sh -R media
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh --tests
exec ctest --test-dir build/release --output-on-failure --parallel "$(nproc)" "$@"
