# cmake --install: what find_package(Conclave) finds. The libraries and headers are each folder's own
# (conclave_add_library).
include(CMakePackageConfigHelpers)

add_library(conclave_all INTERFACE)
add_library(Conclave::conclave ALIAS conclave_all)
set_target_properties(conclave_all PROPERTIES EXPORT_NAME conclave)
target_link_libraries(conclave_all INTERFACE conclave_recipes)  # which stands on all others
install(TARGETS conclave_all EXPORT ConclaveTargets)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Conclave)
install(EXPORT ConclaveTargets NAMESPACE Conclave:: DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ConclaveConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/scripts/cmake/ConclaveConfig.cmake
              ${PROJECT_SOURCE_DIR}/scripts/cmake/ConclaveDependencies.cmake
              ${PROJECT_BINARY_DIR}/ConclaveConfigVersion.cmake
        DESTINATION ${package})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
file(GLOB recipes CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/recipes/*.toml)
install(FILES ${recipes} DESTINATION ${CMAKE_INSTALL_DATADIR}/conclave/recipes)
