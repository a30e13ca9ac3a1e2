# What `cmake --install` gives to those who build against Keiko: the rooms' libraries (keiko_room
# installs them), the headers that an objective needs, and the package that find_package(Keiko) reads.

include(CMakePackageConfigHelpers)
set(package lib/cmake/Keiko)

foreach(room base config model objective)
  file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${room}/*.h)
  # Not those of tests and kernels.
  list(FILTER headers EXCLUDE REGEX "/(golden_case|[a-z_]+_for_tests|fault_disk|fault_env|attention_kernels|attention_vector)\\.h$")
  install(FILES ${headers} DESTINATION include/keiko/${room})
endforeach()
install(FILES src/cli/run.h DESTINATION include/keiko/cli)

if(KEIKO_HAS_CUDA)
  get_filename_component(KEIKO_CUDA_ROOT ${CUDAToolkit_BIN_DIR} DIRECTORY)
endif()
install(EXPORT KeikoTargets NAMESPACE Keiko:: DESTINATION ${package})
configure_package_config_file(cmake/KeikoConfig.cmake.in ${CMAKE_BINARY_DIR}/KeikoConfig.cmake
  INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/KeikoConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/KeikoConfig.cmake ${CMAKE_BINARY_DIR}/KeikoConfigVersion.cmake
  cmake/KeikoDependencies.cmake DESTINATION ${package})
