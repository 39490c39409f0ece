#include "core/plugin.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace conclave {
namespace {

constexpr const char* kRegistrations =
    "a CONCLAVE_REGISTER_EXPERT(...), CONCLAVE_REGISTER_ROUTER(...), CONCLAVE_REGISTER_BALANCER(...) or "
    "CONCLAVE_REGISTER_STRATEGY(...)";

using Registrations = std::vector<std::function<void(const std::string&)>>;

// The registrations of the plug-in that is being loaded; null while none is.
Registrations*& waiting() {
  static Registrations* registrations = nullptr;
  return registrations;
}

void check_mark(const std::string& path) {
  const std::string own = conclave_plugin_abi, begin = own.substr(0, own.find("ABI") + 3);
  const std::string file = read_file(path, "");
  require(file.starts_with("\177ELF"), "{}: is not a shared library; give the .so that a plug-in is built to",
          path);
  const auto at = file.find(begin);
  require(at != std::string::npos,
          "{}: is not a plug-in of Conclave's, it has no symbol conclave_plugin_abi; it needs {}", path,
          kRegistrations);
  const std::string_view mark(file.c_str() + at);  // up to the string's terminating zero
  require(
      mark == own,
      "{}: was compiled for another Conclave: it has \"{}\", this program \"{}\"; compile it anew, with the "
      "program's compiler and against its installed headers",
      path, mark.substr(0, 2 * own.size()), own);
}

// "/x.so: undefined symbol: _ZN8conclave5ArenaE" -> "undefined symbol: conclave::Arena"
std::string readable(const std::string& path, std::string problem) {
  if (problem.starts_with(path + ": ")) problem.erase(0, path.size() + 2);
  const auto symbol = problem.rfind(" _Z");
  if (symbol == std::string::npos) return problem;
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(problem.c_str() + symbol + 1, nullptr, nullptr, &status), std::free);
  return name ? problem.substr(0, symbol + 1) + name.get() : problem;
}

void open(const std::string& path) {
  // dlopen is declared not to throw, but it does if the constructor of a static object throws. A call through
  // a volatile pointer keeps the compiler from relying on the declaration.
  void* (*const volatile open)(const char*, int) = dlopen;
  void* library = nullptr;
  try {
    library = open(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  } catch (const std::exception& error) {
    fail("{}: a static object of it cannot be constructed: {}", path, error.what());
  } catch (...) {
    fail("{}: a static object of it cannot be constructed: it threw something that is no std::exception",
         path);
  }
  if (library) return;
  const std::string problem = readable(path, dlerror());
  if (problem.find("undefined symbol") != std::string::npos)
    fail("{}: {}: it is neither in the program nor in a library that the plug-in is linked to", path,
         problem);
  fail("{}: cannot be loaded: {}", path, problem);
}

}  // namespace

void register_kind(std::function<void(const std::string& plugin)> add) {
  if (waiting())
    waiting()->push_back(std::move(add));
  else
    add("");
}

void load_plugin(const std::string& path) {
  static std::set<std::string> loaded;
  std::error_code error;
  const std::string file = std::filesystem::canonical(path, error).string();
  require(!error, "{}: {}", path, error.message());
  if (loaded.contains(file)) return;
  check_mark(file);
  Registrations registrations;
  waiting() = &registrations;
  try {
    open(file);
  } catch (...) {
    waiting() = nullptr;
    throw;
  }
  waiting() = nullptr;
  require(!registrations.empty(), "{}: registers nothing; it needs {}", path, kRegistrations);
  try {
    for (const auto& add : registrations) add(std::filesystem::path(file).filename().string());
  } catch (const Error& problem) {
    fail("{}: {}", path, problem.what());
  }
  loaded.insert(file);
}

}  // namespace conclave
