# Compiler cache, linker and warnings: used when the machine has them, never required.

find_program(KEIKO_CCACHE ccache)
if(KEIKO_CCACHE)
  # pch_defines and time_macros: without them ccache refuses files that use a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${KEIKO_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${KEIKO_CCACHE})
endif()

# A quick linker: lld, or mold from 2.0 on. mold 1.10 has laid out a program that did not start ("cannot
# apply additional memory protection after relocation"), and has never ended on another with -z norelro. In
# such a program a thread-local variable without bytes (at::parallel_for brings one) came first among what is
# written to, and had file offset 0; that this is the cause is likely, and not proven.
include(CheckLinkerFlag)
find_program(KEIKO_LLD ld.lld)
if(KEIKO_LLD)
  check_linker_flag(CXX -fuse-ld=lld KEIKO_HAS_LLD)
endif()
if(KEIKO_HAS_LLD)
  add_link_options(-fuse-ld=lld)
else()
  find_program(KEIKO_MOLD mold)
  if(KEIKO_MOLD)
    execute_process(COMMAND ${KEIKO_MOLD} --version OUTPUT_VARIABLE version ERROR_QUIET)
    if(version MATCHES "^mold ([0-9.]+)" AND NOT CMAKE_MATCH_1 VERSION_LESS 2)
      # g++ 12.1 and newer knows -fuse-ld=mold; older ones fall back to the system's linker.
      check_linker_flag(CXX -fuse-ld=mold KEIKO_HAS_MOLD)
      if(KEIKO_HAS_MOLD)
        add_link_options(-fuse-ld=mold)
      endif()
    endif()
  endif()
endif()

# nvcc hands to the host compiler what follows -Xcompiler, and refuses it otherwise. Its own code is not
# sanitized: what the kernels compute is checked in the references.
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wno-missing-field-initializers>"
                    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC bug 105651: false alarms on std::string operator+
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-Wno-restrict>)
endif()
if(KEIKO_WERROR)
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-Werror>
                      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Werror;-Werror=all-warnings>")
endif()
if(KEIKO_SANITIZE)
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${KEIKO_SANITIZE};-fno-omit-frame-pointer;-g>")
  add_link_options(-fsanitize=${KEIKO_SANITIZE})
endif()
