# find_package(Conclave) defines the targets Conclave::core, ::autograd, ::data, ::parallel, ::federated, ::transport and
# ::recipes (one library per folder, and one for federated/transport), Conclave::conclave (all libraries), and
# Conclave::plugin (only headers, for plug-ins).
set(CONCLAVE_WITH_CUDA @CONCLAVE_WITH_CUDA@)
include(${CMAKE_CURRENT_LIST_DIR}/ConclaveDependencies.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/ConclaveTargets.cmake)
