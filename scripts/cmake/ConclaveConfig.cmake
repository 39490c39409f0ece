# find_package(Conclave): the targets Conclave::core, ::autograd, ::data, ::parallel, ::recipes (one library per
# folder), Conclave::conclave, which is all of them,
# and Conclave::plugin, which is the headers alone, for a plug-in.
set(CONCLAVE_WITH_CUDA @CONCLAVE_WITH_CUDA@)
include(${CMAKE_CURRENT_LIST_DIR}/ConclaveDependencies.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/ConclaveTargets.cmake)
