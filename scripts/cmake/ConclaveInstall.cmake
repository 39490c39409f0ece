# cmake --install: installs the files for find_package(Conclave). conclave_add_library installs the libraries and
# headers of each folder.
include(CMakePackageConfigHelpers)

add_library(conclave_all INTERFACE)
add_library(Conclave::conclave ALIAS conclave_all)
set_target_properties(conclave_all PROPERTIES EXPORT_NAME conclave)
target_link_libraries(conclave_all INTERFACE conclave_recipes conclave_transport)  # which depend on all others
install(TARGETS conclave_all EXPORT ConclaveTargets)

# For plug-ins, which a recipe names in run.plugins:
#   find_package(Conclave REQUIRED COMPONENTS plugin)
#   add_library(mine MODULE mine.cpp)
#   target_link_libraries(mine PRIVATE Conclave::plugin)
# Headers without libraries: the program has the definitions.
add_library(conclave_plugin INTERFACE)
add_library(Conclave::plugin ALIAS conclave_plugin)
set_target_properties(conclave_plugin PROPERTIES EXPORT_NAME plugin)
target_compile_features(conclave_plugin INTERFACE cxx_std_20)
target_include_directories(conclave_plugin INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/conclave>
  $<TARGET_PROPERTY:fmt::fmt,INTERFACE_INCLUDE_DIRECTORIES>)
install(TARGETS conclave_plugin EXPORT ConclavePluginTargets)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Conclave)
install(EXPORT ConclaveTargets NAMESPACE Conclave:: DESTINATION ${package})
install(EXPORT ConclavePluginTargets NAMESPACE Conclave:: DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ConclaveConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(${PROJECT_SOURCE_DIR}/scripts/cmake/ConclaveConfig.cmake ${PROJECT_BINARY_DIR}/ConclaveConfig.cmake @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/ConclaveConfig.cmake
              ${PROJECT_SOURCE_DIR}/scripts/cmake/ConclaveDependencies.cmake
              ${PROJECT_BINARY_DIR}/ConclaveConfigVersion.cmake
        DESTINATION ${package})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
file(GLOB recipes CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/recipes/*.toml)
install(FILES ${recipes} DESTINATION ${CMAKE_INSTALL_DATADIR}/conclave/recipes)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/recipes/federations ${PROJECT_SOURCE_DIR}/recipes/simulations
        DESTINATION ${CMAKE_INSTALL_DATADIR}/conclave/recipes)
