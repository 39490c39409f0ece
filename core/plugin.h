// Plug-ins: shared libraries that bring experts, routers and strategies of their own. A plug-in is linked
// with nothing of Conclave's; what it uses it finds in the program that loads it, and so there is one
// registry, and one of everything else. That holds where both were compiled to the same rules and against the
// same declarations, which a mark in the plug-in tells: it is read from the file before any of the plug-in's
// code runs.
#pragma once

#include <functional>
#include <string>

/// Raised by every change of an installed header after which plug-ins must be compiled anew.
#define CONCLAVE_PLUGIN_ABI 7

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

/// The mark; in every library that registers something.
extern "C" [[gnu::visibility("default")]] inline const char conclave_plugin_abi[] =
    "conclave plug-in ABI " CONCLAVE_AS_TEXT(CONCLAVE_PLUGIN_ABI) "; " CONCLAVE_COMPILER
                                                                  ", " CONCLAVE_STANDARD_LIBRARY;

namespace conclave {

/// Loads the shared library at `path`, for as long as the program runs; once, however often it is called.
/// Throws Error, which begins with the path, where it is none, was compiled for another Conclave, uses what
/// is nowhere, fails while it is loaded, or brings nothing or what there is already. Nothing of what it
/// registers is there before it is loaded.
void load_plugin(const std::string& path);

/// For registrations: calls add("") at once or, while a plug-in is being loaded, add(its file's name) once
/// that has succeeded.
void register_kind(std::function<void(const std::string& plugin)> add);

/// A name for a static object that a macro defines.
#define CONCLAVE_UNIQUE_NAME(prefix) CONCLAVE_JOINED(prefix, __COUNTER__)
#define CONCLAVE_JOINED(a, b) CONCLAVE_JOINED_(a, b)
#define CONCLAVE_JOINED_(a, b) a##b

}  // namespace conclave
