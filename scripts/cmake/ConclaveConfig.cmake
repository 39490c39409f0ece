# find_package(Conclave): the targets Conclave::core, ::autograd, ::data, ::parallel, ::recipes (one library per
# folder), and Conclave::conclave, which is all of them.
include(${CMAKE_CURRENT_LIST_DIR}/ConclaveDependencies.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/ConclaveTargets.cmake)
