# find_package(Conclave COMPONENTS plugin) defines Conclave::plugin (only headers, for plug-ins), which needs nothing but fmt.
# find_package(Conclave) also defines Conclave::core, ::autograd, ::data, ::parallel, ::federated, ::transport and ::recipes (one
# library per folder, and one for federated/transport) and Conclave::conclave (all of them), and finds all that these need.
foreach(component IN LISTS ${CMAKE_FIND_PACKAGE_NAME}_FIND_COMPONENTS)
  if(NOT component STREQUAL "plugin")
    set(${CMAKE_FIND_PACKAGE_NAME}_FOUND FALSE)
    set(${CMAKE_FIND_PACKAGE_NAME}_NOT_FOUND_MESSAGE
        "there is no component ${component}; name plugin, or none for the libraries")
    return()
  endif()
endforeach()
find_package(fmt REQUIRED)
include(${CMAKE_CURRENT_LIST_DIR}/ConclavePluginTargets.cmake)
set(${CMAKE_FIND_PACKAGE_NAME}_plugin_FOUND TRUE)
if(NOT ${CMAKE_FIND_PACKAGE_NAME}_FIND_COMPONENTS)
  set(CONCLAVE_WITH_CUDA @CONCLAVE_WITH_CUDA@)
  include(${CMAKE_CURRENT_LIST_DIR}/ConclaveDependencies.cmake)
  include(${CMAKE_CURRENT_LIST_DIR}/ConclaveTargets.cmake)
endif()
