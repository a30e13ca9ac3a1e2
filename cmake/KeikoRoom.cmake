# keiko_room(NAME USES room... LINKS target... SOURCES file... TESTS file... GPU_TESTS file...)
#
# One static library for a folder under src/, and one test program for the tests beside its sources.
# GPU_TESTS make a second one, NAME_gpu_test, whose cases have the label `gpu` (ctest -L gpu): they skip
# themselves, loudly, on machines without a GPU.
# An installed Keiko (KeikoConfig.cmake.in) has it as Keiko::NAME.

set_property(GLOBAL PROPERTY KEIKO_ROOM_TABLE "")

# The first target of a kind (LIBRARY or TEST: their flags differ) compiles the header, later ones
# reuse it: it costs half a minute.
function(keiko_precompile target kind header)
  get_property(owner GLOBAL PROPERTY KEIKO_PCH_${kind})
  if(owner)
    target_precompile_headers(${target} REUSE_FROM ${owner})
  else()
    target_precompile_headers(${target} PRIVATE ${header})
    set_property(GLOBAL PROPERTY KEIKO_PCH_${kind} ${target})
  endif()
endfunction()

# One test program of a room; `label`: of its cases, may be empty.
function(keiko_test_program target room pch label)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE keiko_${room} GTest::gtest_main)
  set_source_files_properties(${ARGN} PROPERTIES
    COMPILE_DEFINITIONS KEIKO_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(pch)
    keiko_precompile(${target} TEST ${pch})
  endif()
  if(label)
    set(label LABELS ${label})
  endif()
  gtest_discover_tests(${target} TEST_PREFIX ${room}. DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 600 SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]" ${label})
endfunction()

function(keiko_room name)
  cmake_parse_arguments(ROOM "" "" "USES;LINKS;SOURCES;TESTS;GPU_TESTS;PCH" ${ARGN})
  add_library(keiko_${name} STATIC ${ROOM_SOURCES})
  target_include_directories(keiko_${name} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<INSTALL_INTERFACE:include/keiko>)
  target_compile_features(keiko_${name} PUBLIC cxx_std_20)
  list(TRANSFORM ROOM_USES PREPEND keiko_ OUTPUT_VARIABLE uses)
  # keiko_torch and keiko_ffmpeg hold this machine's paths: the installed package makes its own.
  list(TRANSFORM ROOM_LINKS REPLACE "^keiko_(.+)$"
    "$<BUILD_INTERFACE:keiko_\\1>;$<INSTALL_INTERFACE:Keiko::\\1>")
  target_link_libraries(keiko_${name} PUBLIC ${uses} ${ROOM_LINKS})
  set_target_properties(keiko_${name} PROPERTIES EXPORT_NAME ${name})
  install(TARGETS keiko_${name} EXPORT KeikoTargets ARCHIVE DESTINATION lib/keiko)
  if(ROOM_PCH)
    keiko_precompile(keiko_${name} LIBRARY ${ROOM_PCH})
  endif()
  list(JOIN ROOM_USES "," row)
  set_property(GLOBAL APPEND PROPERTY KEIKO_ROOM_TABLE "${name}:${row}")
  if(KEIKO_TESTS AND ROOM_TESTS)
    keiko_test_program(${name}_test ${name} "${ROOM_PCH}" "" ${ROOM_TESTS})
  endif()
  if(KEIKO_TESTS AND ROOM_GPU_TESTS)
    keiko_test_program(${name}_gpu_test ${name} "${ROOM_PCH}" gpu ${ROOM_GPU_TESTS})
  endif()
endfunction()

if(KEIKO_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
