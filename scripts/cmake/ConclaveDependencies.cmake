# The dependencies of Conclave, found in the same way by its own build and by projects with find_package(Conclave).
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(MPI REQUIRED COMPONENTS C)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
find_package(OpenSSL 3 REQUIRED COMPONENTS Crypto SSL)
find_package(Eigen3 REQUIRED NO_MODULE)
find_package(PkgConfig REQUIRED)

# Debian can install several builds of OpenBLAS, and its alternatives system chooses one. Conclave needs the OpenMP
# build: its products run on the same threads as Conclave's own loops. The pthreads build would start as many threads
# again, which would compete for the cores.
set(conclave_openblas /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp/pkgconfig)
if(EXISTS ${conclave_openblas})
  set(ENV{PKG_CONFIG_PATH} "${conclave_openblas}:$ENV{PKG_CONFIG_PATH}")
endif()

foreach(pair IN ITEMS "openblas;openblas" "hdf5;hdf5-openmpi" "sentencepiece;sentencepiece" "xxhash;libxxhash"
                      "tomlplusplus;tomlplusplus" "cairo;cairo" "png;libpng" "turbojpeg;libturbojpeg"
                      "freetype;freetype2" "sqlite3;sqlite3" "httplib;cpp-httplib" "prometheus;prometheus-cpp-core")
  list(GET pair 0 name)
  list(GET pair 1 module)
  pkg_check_modules(${name} REQUIRED IMPORTED_TARGET GLOBAL ${module})
endforeach()

# Finds gRPC without pkg-config, which takes seventeen seconds for the hundreds of modules of Abseil.
if(NOT TARGET Conclave::grpc)  # a project may call find_package(Conclave) in several folders
  add_library(Conclave::grpc INTERFACE IMPORTED GLOBAL)
  foreach(library IN ITEMS grpc++ grpc gpr absl_synchronization)
    string(MAKE_C_IDENTIFIER "CONCLAVE_${library}" name)
    find_library(${name} ${library} REQUIRED)
    target_link_libraries(Conclave::grpc INTERFACE ${${name}})
  endforeach()
  find_path(CONCLAVE_GRPC_INCLUDE grpcpp/grpcpp.h REQUIRED)
  target_include_directories(Conclave::grpc INTERFACE ${CONCLAVE_GRPC_INCLUDE})
endif()

pkg_get_variable(conclave_openblas openblas openblas_config)
if(NOT conclave_openblas MATCHES "USE_OPENMP=1")
  message(FATAL_ERROR "OpenBLAS in ${openblas_LIBDIR} is not built with OpenMP (${conclave_openblas}). "
                      "Debian's package is libopenblas-openmp-dev; scripts/setup installs it.")
endif()
unset(conclave_openblas)

# Debian's SentencePiece contains an older protobuf and exports its symbols. A shared libprotobuf would replace these
# symbols and refuse to work with SentencePiece. So protobuf is linked statically, as a whole archive (otherwise the
# linker would use SentencePiece's symbols), and is not in the program's dynamic symbols.
find_library(CONCLAVE_PROTOBUF libprotobuf.a REQUIRED)
if(NOT TARGET Conclave::protobuf)
  add_library(Conclave::protobuf STATIC IMPORTED GLOBAL)
  set_target_properties(Conclave::protobuf PROPERTIES IMPORTED_LOCATION ${CONCLAVE_PROTOBUF})
  target_link_libraries(Conclave::protobuf INTERFACE ZLIB::ZLIB Threads::Threads)
  target_link_options(Conclave::protobuf INTERFACE "LINKER:--exclude-libs,libprotobuf.a:libconclave_transport.a")
endif()
find_program(CONCLAVE_PROTOC protoc REQUIRED)
find_program(CONCLAVE_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)

if(CONCLAVE_WITH_CUDA)
  find_package(CUDAToolkit REQUIRED)
  foreach(library IN ITEMS nccl cudnn)
    string(TOUPPER CONCLAVE_${library} name)
    find_path(${name}_INCLUDE ${library}.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(${name} ${library} HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
    if(NOT TARGET Conclave::${library})
      add_library(Conclave::${library} INTERFACE IMPORTED)
      target_include_directories(Conclave::${library} INTERFACE ${${name}_INCLUDE})
      target_link_libraries(Conclave::${library} INTERFACE ${${name}})
    endif()
  endforeach()
endif()
