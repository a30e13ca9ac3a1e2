#!/usr/bin/env bash
# Makes seed inputs for every fuzz target with the ffmpeg command line; nothing of it is committed.
#
#   fuzz/make_seeds.sh BUILD [OUT]    BUILD: folder of the fuzz build; OUT: default BUILD/seeds
set -euo pipefail
cd "$(dirname "$0")/.."
build="$1"
out="${2:-$build/seeds}"
videos="$out/video"
rm -rf "$out"
mkdir -p "$videos"

# make NAME SIZE FRAMES ENCODER-ARGUMENTS...; what this ffmpeg cannot make is left out, and said.
make() {
  local name="$1" size="$2" frames="$3"
  shift 3
  if ! ffmpeg -nostdin -v error -f lavfi -i "testsrc2=s=$size:r=25" -frames:v "$frames" "$@" \
    -fflags +bitexact -flags:v +bitexact -threads 1 -y "$videos/$name" 2> /dev/null; then
    echo "make_seeds: this ffmpeg makes no $name; left out"
    rm -f "$videos/$name"
  fi
}
x264=(-c:v libx264 -preset veryfast -crf 40 -pix_fmt yuv420p -x264-params "info=0:scenecut=0")
make h264.mp4 32x32 10 "${x264[@]}" -g 5 -bf 2
make h264_faststart.mp4 32x32 4 "${x264[@]}" -movflags +faststart
make h264_fragmented.mp4 32x32 6 "${x264[@]}" -g 3 -movflags +frag_keyframe+empty_moov
make h264_open_gop.mkv 32x32 10 -c:v libx264 -crf 40 -pix_fmt yuv420p -g 4 -bf 2 \
  -x264-params "open-gop=1:info=0"
make h264.ts 32x32 6 "${x264[@]}" -bf 0
make h264.avi 32x32 6 "${x264[@]}" -bf 0
make h264.flv 32x32 6 "${x264[@]}"
make h264.h264 32x32 4 "${x264[@]}"
make h264_fields.mp4 32x32 6 -c:v libx264 -crf 40 -pix_fmt yuv420p -flags +ildct+ilme \
  -x264-params "tff=1:info=0"
make h264_10bit_444.mp4 34x30 4 -c:v libx264 -crf 40 -pix_fmt yuv444p10le -x264-params info=0
make hevc.mp4 32x32 6 -c:v libx265 -crf 45 -pix_fmt yuv420p -tag:v hvc1 \
  -x265-params "log-level=none:info=0:keyint=3"
make hevc.mkv 32x32 4 -c:v libx265 -crf 45 -pix_fmt yuv420p10le \
  -x265-params "log-level=none:info=0"
make hevc.hevc 32x32 3 -c:v libx265 -crf 45 -pix_fmt yuv420p -x265-params "log-level=none:info=0"
make vp8.webm 32x32 6 -c:v libvpx -crf 50 -b:v 20k -auto-alt-ref 1 -lag-in-frames 4
make vp9.webm 33x31 6 -c:v libvpx-vp9 -crf 55 -b:v 0
make vp9.ivf 32x32 4 -c:v libvpx-vp9 -crf 55 -b:v 0
make av1.mkv 32x32 4 -c:v libaom-av1 -crf 60 -cpu-used 8
make av1.mp4 32x32 3 -c:v libaom-av1 -crf 60 -cpu-used 8
make mpeg4.avi 32x32 6 -c:v mpeg4 -q:v 31 -bf 1
make mpeg2.ts 32x32 6 -c:v mpeg2video -q:v 31 -bf 1
make mpeg2.mpg 32x32 6 -c:v mpeg2video -q:v 31
make mpeg1.mpg 32x32 4 -c:v mpeg1video -q:v 31
make mjpeg.avi 32x32 3 -c:v mjpeg -q:v 31
make mjpeg.mov 32x32 3 -c:v mjpeg -q:v 31 -pix_fmt yuvj420p
make theora.ogv 32x32 4 -c:v libtheora -q:v 1
make wmv2.asf 32x32 4 -c:v wmv2 -q:v 31
make flv1.flv 32x32 4 -c:v flv -q:v 31
make ffv1.mkv 16x16 3 -c:v ffv1 -level 3 -slices 4
make ffv1.nut 16x16 2 -c:v ffv1
make prores.mov 32x32 2 -c:v prores_ks -profile:v 0
make rawvideo.avi 16x16 2 -c:v rawvideo -pix_fmt yuv420p
make rgb.avi 16x16 2 -c:v rawvideo -pix_fmt bgr24
make pal8.gif 16x16 3
make gray.mkv 16x16 3 -c:v ffv1 -pix_fmt gray
make png.mov 16x16 2 -c:v png
make huffyuv.avi 16x16 2 -c:v huffyuv
make y4m.y4m 16x16 2 -pix_fmt yuv420p
make mpeg2.mxf 32x32 3 -c:v mpeg2video -q:v 31
make h263.3gp 128x96 3 -c:v h263 -q:v 31
make rotated.mp4 32x24 4 "${x264[@]}" -metadata:s:v rotate=90
make audio.mp4 32x32 4 -filter_complex "sine=d=0.2:r=8000[a]" -map 0:v -map "[a]" "${x264[@]}" -c:a aac
# An edit list that starts inside the stream, and so frames that are decoded and not shown.
if [ -e "$videos/h264.mp4" ]; then
  ffmpeg -nostdin -v error -ss 0.1 -i "$videos/h264.mp4" -c copy -fflags +bitexact -y \
    "$videos/edit_list.mp4" || rm -f "$videos/edit_list.mp4"
fi

"$build/fuzz/make_seeds" "$videos" "$out"
for target in scan decode; do ln -sfn video "$out/$target"; done
for target in recipe list; do cp -r "fuzz/seeds/$target" "$out/$target"; done
cp configs/*.yaml "$out/recipe/"
