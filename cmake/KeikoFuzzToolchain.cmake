# How code is compiled for fuzzing: coverage for libFuzzer, and every sanitizer ends the process.
#
# FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION is libFuzzer's own name for a build that skips checksums
# (base/hash.h), so that mutated bytes reach the code behind them.

if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  message(FATAL_ERROR "KEIKO_FUZZ needs clang; configure with cmake --preset fuzz")
endif()
# float-cast-overflow is not part of `undefined`: hostile sizes and crops meet many casts to int.
set(keiko_sanitizers address,undefined,float-cast-overflow)
add_compile_definitions(FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
add_compile_options(-fsanitize=fuzzer-no-link,${keiko_sanitizers} -fno-sanitize-recover=all
  -fno-omit-frame-pointer)
add_link_options(-fsanitize=${keiko_sanitizers})
# Lines are enough for a stack trace, and -O1 halves the time to build.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -gline-tables-only")
