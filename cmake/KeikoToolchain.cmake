# Compiler cache, linker and warnings: used when the machine has them, never required.

find_program(KEIKO_CCACHE ccache)
if(KEIKO_CCACHE)
  # pch_defines and time_macros: without them ccache refuses files that use a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${KEIKO_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${KEIKO_CCACHE})
endif()

find_program(KEIKO_MOLD mold)
if(KEIKO_MOLD)
  # g++ 12.1 and newer knows -fuse-ld=mold; older ones fall back to the system's linker.
  include(CheckLinkerFlag)
  check_linker_flag(CXX -fuse-ld=mold KEIKO_HAS_MOLD)
  if(KEIKO_HAS_MOLD)
    add_link_options(-fuse-ld=mold)
    # mold 1.10 lets the read-only-after-relocation segment begin at a thread-local variable without
    # bytes in the file (at::parallel_for brings one), outside of every loaded page. Depending on sizes,
    # the program then does not start: "cannot apply additional memory protection after relocation".
    add_link_options(-Wl,-z,norelro)
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
