#!/usr/bin/env bash
# Installs what Keiko needs and is not there yet; says so first, and says nothing when all is there.
#
#   scripts/setup.sh           what building and running need
#   scripts/setup.sh --tests   what the tests need besides
#
# KEIKO_TORCH   folder of your own torch 2.11 (python3 -c 'import torch; print(torch.__path__[0])');
#               otherwise the torch wheel goes into a private virtual environment
# KEIKO_FFMPEG  prefix of your own FFmpeg; otherwise Debian's or Ubuntu's packages
# KEIKO_HOME    where the virtual environment goes; default ~/.cache/keiko
set -euo pipefail

torch_version=2.11.0
home="${KEIKO_HOME:-$HOME/.cache/keiko}"
venv="$home/torch-$torch_version"

packages=(cmake g++ ninja-build ccache lld pkg-config git python3 python3-venv ffmpeg
  libyaml-cpp-dev nlohmann-json3-dev libfmt-dev libspdlog-dev libcli11-dev
  libflatbuffers-dev flatbuffers-compiler libxxhash-dev protobuf-compiler libprotobuf-dev
  libpng-dev libgloo-dev libgtest-dev)
[ -n "${KEIKO_FFMPEG:-}" ] || packages+=(libavformat-dev libavcodec-dev libavutil-dev libswscale-dev)

# For fuzzing: the compiler, and libFuzzer with the sanitizers. For the launchers: Slurm and Open MPI; the
# tests start a Slurm of their own, and need none that is set up. For hosts made of namespaces: ip.
[ "${1:-}" != --tests ] || packages+=(clang libclang-rt-dev
  slurmctld slurmd slurm-client munge openmpi-bin iproute2)

missing=()
for package in "${packages[@]}"; do
  # A tool from elsewhere on the PATH is as good as its package.
  case "$package" in
    cmake | git | python3 | ffmpeg | ccache) command -v "$package" > /dev/null && continue ;;
    g++) command -v g++ > /dev/null && continue ;;
    slurmctld | slurmd) [ -x "/usr/sbin/$package" ] || command -v "$package" > /dev/null && continue ;;
    openmpi-bin) command -v mpirun > /dev/null && continue ;;
    clang) command -v clang++ > /dev/null && continue ;;
    libclang-rt-dev) compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a' > /dev/null && continue ;;
    lld) command -v ld.lld > /dev/null && continue ;;
    ninja-build) command -v ninja > /dev/null && continue ;;
    python3-venv) python3 -c 'import venv, ensurepip' 2> /dev/null && continue ;;
  esac
  dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get > /dev/null; then
    echo "setup: this script installs with apt-get, which is not here. Install by other means: ${missing[*]}" >&2
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo > /dev/null; then
      echo "setup: not root and no sudo. Ask for these packages: ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

want_python=(torch==$torch_version)
if [ "${1:-}" = --tests ]; then
  want_python+=(numpy safetensors transformers==5.23.0 tensorboard pytest pyyaml pillow)
elif [ -n "${KEIKO_TORCH:-}" ]; then
  want_python=()  # nothing of Python is needed to build against one's own torch
fi
if [ ${#want_python[@]} -gt 0 ]; then
  stamp="$venv/installed-$(echo "${want_python[*]}" | cksum | cut -d' ' -f1)"
  if [ ! -e "$stamp" ]; then
    echo "setup: installing ${want_python[*]} into $venv (about 5 GB, a few minutes)"
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check "${want_python[@]}"
    touch "$stamp"
  fi
fi
if [ -n "${KEIKO_TORCH:-}" ] && [ ! -e "$KEIKO_TORCH/include/ATen/ATen.h" ]; then
  echo "setup: KEIKO_TORCH=$KEIKO_TORCH holds no torch (include/ATen/ATen.h is missing)" >&2
  exit 1
fi
