# Everything Keiko links against, each as one imported target with a keiko_ prefix. An installed Keiko
# reads this file too (KeikoConfig.cmake.in), so that it finds the same things in the same way.

set(KEIKO_TORCH "$ENV{KEIKO_TORCH}" CACHE PATH "Folder of a torch installation (holds include/ and lib/)")
set(KEIKO_FFMPEG "$ENV{KEIKO_FFMPEG}" CACHE PATH "Prefix of an FFmpeg installation; empty: pkg-config")

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
if(NOT KEIKO_FUZZ)
  find_package(CLI11 REQUIRED)
  find_package(Protobuf REQUIRED)
  find_package(PNG REQUIRED)
endif()
pkg_check_modules(YAMLCPP REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
if(NOT KEIKO_IS_INSTALLED)  # generated code is compiled by now
  find_path(FLATBUFFERS_INCLUDE flatbuffers/flatbuffers.h REQUIRED)
  find_program(FLATC flatc REQUIRED)
endif()

# FFmpeg: the system's, or a private prefix (its .pc files name the folder they were built for, so
# the paths are given by hand).
if(KEIKO_FFMPEG)
  add_library(keiko_ffmpeg INTERFACE)
  target_include_directories(keiko_ffmpeg SYSTEM INTERFACE ${KEIKO_FFMPEG}/include)
  foreach(lib avformat avcodec swscale avutil)
    find_library(KEIKO_LIB_${lib} ${lib} PATHS ${KEIKO_FFMPEG}/lib NO_DEFAULT_PATH REQUIRED)
    target_link_libraries(keiko_ffmpeg INTERFACE ${KEIKO_LIB_${lib}})
  endforeach()
else()
  pkg_check_modules(FFMPEG REQUIRED IMPORTED_TARGET libavformat>=59 libavcodec>=59 libavutil>=57
                    libswscale>=6)
  add_library(keiko_ffmpeg INTERFACE)
  target_link_libraries(keiko_ffmpeg INTERFACE PkgConfig::FFMPEG)
endif()

if(KEIKO_FUZZ)
  return()  # the rooms under fuzzing need no torch
endif()

# The CUDA runtime, as CUDA::cudart_static: a program that holds it starts on machines without CUDA.
if(KEIKO_HAS_CUDA)
  find_package(CUDAToolkit REQUIRED)
endif()

# LibTorch: find_package(Torch) of a CUDA wheel insists on a whole CUDA toolkit, so the CPU part is
# imported by hand from the same folder.
if(NOT KEIKO_TORCH)
  set(KEIKO_TORCH $ENV{HOME}/.cache/keiko/torch-2.11.0/lib)
  file(GLOB found ${KEIKO_TORCH}/python*/site-packages/torch)
  list(GET found 0 KEIKO_TORCH)
endif()
if(NOT EXISTS ${KEIKO_TORCH}/include/ATen/ATen.h)
  message(FATAL_ERROR "No LibTorch at '${KEIKO_TORCH}'. Run scripts/setup.sh, or set KEIKO_TORCH to "
                      "the folder that `python3 -c 'import torch; print(torch.__path__[0])'` prints.")
endif()
# The wheel ships headers of a newer {fmt} than the one we link: ours must be found first, or one
# program would hold two.
find_path(KEIKO_FMT_INCLUDE fmt/format.h REQUIRED)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/first)
file(CREATE_LINK ${KEIKO_FMT_INCLUDE}/fmt ${CMAKE_BINARY_DIR}/first/fmt SYMBOLIC)
add_library(keiko_torch INTERFACE)
target_include_directories(keiko_torch BEFORE INTERFACE ${CMAKE_BINARY_DIR}/first)
target_include_directories(keiko_torch SYSTEM INTERFACE
  ${KEIKO_TORCH}/include ${KEIKO_TORCH}/include/torch/csrc/api/include)
target_compile_definitions(keiko_torch INTERFACE USE_C10D_GLOO)
target_link_libraries(keiko_torch INTERFACE
  -Wl,--no-as-needed ${KEIKO_TORCH}/lib/libtorch_cpu.so ${KEIKO_TORCH}/lib/libc10.so -Wl,--as-needed)
# at::parallel_for is a template: compiled without OpenMP it is a plain loop, silently. The runtime must
# be the one that torch loads, or two pools of threads would fight for the cores.
target_compile_options(keiko_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
if(EXISTS ${KEIKO_TORCH}/lib/libgomp.so.1)
  target_link_libraries(keiko_torch INTERFACE ${KEIKO_TORCH}/lib/libgomp.so.1)
else()
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(keiko_torch INTERFACE OpenMP::OpenMP_CXX)
endif()
# torch's CUDA part: of the same wheel, for the module that alone links it (src/gpu). Headers of the
# toolkit bring those of NCCL, or the wheel's sibling package does.
if(KEIKO_HAS_CUDA AND EXISTS ${KEIKO_TORCH}/lib/libtorch_cuda.so)
  find_package(CUDAToolkit REQUIRED)
  find_path(KEIKO_NCCL_INCLUDE nccl.h
    HINTS ${CUDAToolkit_INCLUDE_DIRS} ${KEIKO_TORCH}/../nvidia/nccl/include)
  if(KEIKO_NCCL_INCLUDE)
    add_library(keiko_torch_cuda INTERFACE)
    target_include_directories(keiko_torch_cuda SYSTEM INTERFACE
      ${CUDAToolkit_INCLUDE_DIRS} ${KEIKO_NCCL_INCLUDE})
    target_compile_definitions(keiko_torch_cuda INTERFACE USE_C10D_NCCL)
    target_link_libraries(keiko_torch_cuda INTERFACE keiko_torch -Wl,--no-as-needed
      ${KEIKO_TORCH}/lib/libtorch_cuda.so ${KEIKO_TORCH}/lib/libc10_cuda.so -Wl,--as-needed)
  elseif(NOT KEIKO_CUDA STREQUAL AUTO)
    message(FATAL_ERROR "KEIKO_CUDA=${KEIKO_CUDA}, but no nccl.h: install NCCL's headers, or use -DKEIKO_CUDA=AUTO")
  else()
    message(STATUS "No nccl.h: this build computes on CPUs alone (install NCCL's headers)")
  endif()
endif()
# The wheel's own CUDA libraries lie in sibling packages; libtorch_cpu.so finds them by its own rpath.
target_link_options(keiko_torch INTERFACE -Wl,-rpath,${KEIKO_TORCH}/lib
  -Wl,--allow-shlib-undefined)
