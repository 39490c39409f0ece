// Plug-ins: shared libraries that add experts, routers, balancers and strategies. A plug-in is not linked to
// Conclave: its symbols are resolved in the program that loads it. So there is one registry, and one instance
// of every other global object. This requires that program and plug-in were built with compatible compilers
// from the same declarations. A mark in the plug-in records both; load_plugin() reads it from the file before
// any code of the plug-in runs.
#pragma once

#include <functional>
#include <string>

/// Increased with every change after which plug-ins must be compiled again, of a header of core, autograd,
/// parallel or federated/strategies. Plug-ins include no others; those are for programs that are linked to
/// the installed libraries.
#define CONCLAVE_PLUGIN_ABI 12

#define CONCLAVE_AS_TEXT(value) CONCLAVE_AS_TEXT_(value)
#define CONCLAVE_AS_TEXT_(value) #value
#ifdef __clang__
#define CONCLAVE_COMPILER "Clang " CONCLAVE_AS_TEXT(__clang_major__)
#else
#define CONCLAVE_COMPILER "GCC " CONCLAVE_AS_TEXT(__GNUC__)
#endif
#ifdef _LIBCPP_ABI_VERSION
#define CONCLAVE_STANDARD_LIBRARY "libc++ ABI " CONCLAVE_AS_TEXT(_LIBCPP_ABI_VERSION)
#else
#define CONCLAVE_STANDARD_LIBRARY "libstdc++, C++11 ABI " CONCLAVE_AS_TEXT(_GLIBCXX_USE_CXX11_ABI)
#endif

/// The mark; part of every library that registers something.
extern "C" [[gnu::visibility("default")]] inline const char conclave_plugin_abi[] =
    "conclave plug-in ABI " CONCLAVE_AS_TEXT(CONCLAVE_PLUGIN_ABI) "; " CONCLAVE_COMPILER
                                                                  ", " CONCLAVE_STANDARD_LIBRARY;

namespace conclave {

/// Loads the shared library at `path` until the program ends; further calls with this library do nothing.
/// Throws Error, which begins with the path, if the file is no plug-in, was compiled for another Conclave,
/// has undefined symbols, fails while it is loaded, registers nothing, or registers a name that exists. What
/// it registers becomes visible only after loading has succeeded.
void load_plugin(const std::string& path);

/// For registrations: calls add("") at once or, while a plug-in is being loaded, add(file name of the
/// plug-in) after loading has succeeded.
void register_kind(std::function<void(const std::string& plugin)> add);

/// A unique name for a static object that a macro defines.
#define CONCLAVE_UNIQUE_NAME(prefix) CONCLAVE_JOINED(prefix, __COUNTER__)
#define CONCLAVE_JOINED(a, b) CONCLAVE_JOINED_(a, b)
#define CONCLAVE_JOINED_(a, b) a##b

}  // namespace conclave
