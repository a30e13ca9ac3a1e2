#!/usr/bin/env bash
# Builds an FFmpeg for Keiko from a release's source: what distributions ship is often years behind, and
# newer decoders are faster (docs/performance.md, "Against other loaders").
#
#   scripts/build_ffmpeg.sh SOURCE PREFIX
#
# SOURCE  a release's tarball (.tar.xz, .tar.gz) or its unpacked folder, 5.1 or newer
# PREFIX  where it goes; then build Keiko with KEIKO_FFMPEG=PREFIX in an empty build folder
#
# It holds FFmpeg's own decoders of video, libdav1d for AV1, and libx264, which `keiko pack` encodes with
# (so the result is under the GPL), and ffmpeg and ffprobe; NVDEC where the headers of NVIDIA's codecs are
# (pkg-config ffnvcodec, as new as the release wants). Network protocols and devices are left out.
set -euo pipefail

if [ $# != 2 ]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
source=$(realpath "$1")
mkdir -p "$2"
prefix=$(realpath "$2")

# Without an assembler FFmpeg builds, and decodes several times slower.
missing=()
for tool in nasm pkg-config make; do command -v $tool > /dev/null || missing+=("$tool"); done
for library in x264 dav1d; do
  pkg-config --exists $library 2> /dev/null || missing+=("lib$library-dev")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "build_ffmpeg: not found: ${missing[*]}. Install them first, e.g. apt-get install ${missing[*]}" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -f "$source" ]; then
  tar -xf "$source" -C "$work" --strip-components=1
  source=$work
fi
if [ ! -x "$source/configure" ]; then
  echo "build_ffmpeg: $1 holds no FFmpeg source (configure is missing)" >&2
  exit 1
fi
nvdec=()
if pkg-config --exists ffnvcodec 2> /dev/null; then
  nvdec=(--enable-ffnvcodec --enable-cuda --enable-nvdec)
else
  echo "build_ffmpeg: no ffnvcodec here (nv-codec-headers): it will not decode on GPUs" >&2
fi
mkdir -p "$work/build"
cd "$work/build"
"$source/configure" --prefix="$prefix" --enable-shared --disable-static --disable-doc --disable-debug \
  --disable-autodetect --enable-zlib --disable-network --disable-avdevice --disable-ffplay \
  --disable-encoders --enable-encoder=libx264,rawvideo,wrapped_avframe,png,mpeg4,mpeg2video,ffv1,pcm_s16le \
  --enable-gpl --enable-libx264 --enable-libdav1d --enable-rpath "${nvdec[@]}" \
  > configure.log || { tail -20 configure.log ffbuild/config.log >&2; exit 1; }
make -j"$(nproc)" > make.log 2>&1 || { tail -30 make.log >&2; exit 1; }
make install > install.log
echo "build_ffmpeg: $("$prefix/bin/ffmpeg" -version | head -1) is in $prefix"
