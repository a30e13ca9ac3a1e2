# Whether Keiko is built with CUDA: KEIKO_HAS_CUDA, and the language when it is.
#
# KEIKO_CUDA=AUTO takes CUDA where an nvcc is found that works with this C++ compiler, ON insists, OFF
# never looks. Without it the room `cuda` still holds the references, and its functions say what is
# missing (src/cuda/no_cuda.cpp).

set(KEIKO_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE KEIKO_CUDA PROPERTY STRINGS AUTO ON OFF)
set(KEIKO_CUDA_ARCHITECTURES "80;90" CACHE STRING
  "GPU architectures to compile for, as CMAKE_CUDA_ARCHITECTURES takes them (80: A100, 90: H100)")
set(KEIKO_HAS_CUDA OFF)
if(NOT KEIKO_CUDA)  # AUTO counts as true here
  return()
endif()

# Where nvcc is: CMake's and the toolkit's own variables first, then the PATH, then the usual folder.
if(NOT KEIKO_NVCC AND EXISTS "$ENV{CUDACXX}")
  set(KEIKO_NVCC $ENV{CUDACXX} CACHE FILEPATH "nvcc")
endif()
find_program(KEIKO_NVCC nvcc
  HINTS ${CUDAToolkit_ROOT}/bin $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin
  PATHS /usr/local/cuda/bin)
mark_as_advanced(KEIKO_NVCC)
set(problem "")
if(NOT KEIKO_NVCC)
  set(problem "no nvcc in the PATH, CUDA_HOME or /usr/local/cuda")
elseif(NOT KEIKO_NVCC_WORKS STREQUAL "${KEIKO_NVCC} ${CMAKE_CXX_COMPILER}")
  # enable_language would end the configuration; AUTO must not. An nvcc may be too old for the compiler.
  set(probe ${CMAKE_BINARY_DIR}/CMakeFiles/nvcc_probe)
  file(WRITE ${probe}.cu "__global__ void kernel() {}\n")
  execute_process(COMMAND ${KEIKO_NVCC} -ccbin ${CMAKE_CXX_COMPILER} -std=c++17 -c ${probe}.cu -o ${probe}.o
    RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(result EQUAL 0)
    set(KEIKO_NVCC_WORKS "${KEIKO_NVCC} ${CMAKE_CXX_COMPILER}" CACHE INTERNAL "")
  else()
    string(STRIP "${said}" said)
    set(problem "${KEIKO_NVCC} does not compile with ${CMAKE_CXX_COMPILER} (${said})")
  endif()
endif()
if(problem STREQUAL "")
  set(CMAKE_CUDA_COMPILER ${KEIKO_NVCC} CACHE FILEPATH "The CUDA compiler")
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER} CACHE FILEPATH "The host compiler of nvcc")
  set(CMAKE_CUDA_ARCHITECTURES ${KEIKO_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  # CMake 3.25 does not know how nvcc 13 is asked for C++20.
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  # CUDA::cudart_static is linked by name, because an installed Keiko must find it again.
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)
  set(KEIKO_HAS_CUDA ON)
  message(STATUS "CUDA: ${KEIKO_NVCC} ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${KEIKO_CUDA_ARCHITECTURES}")
elseif(NOT KEIKO_CUDA STREQUAL AUTO)
  message(FATAL_ERROR "KEIKO_CUDA=${KEIKO_CUDA}, but ${problem}. Install the CUDA toolkit, set CUDA_HOME, or use "
                      "-DKEIKO_CUDA=AUTO or OFF.")
else()
  message(STATUS "CUDA: off (${problem})")
endif()
