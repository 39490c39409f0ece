// Every mistake a user can make ends in a conclave::Error whose message says what was done, with what, what
// was expected and what to do next. Broken invariants of our own are asserts, not Errors.
#pragma once

#ifdef __NVCC__
#define FMT_USE_CONSTEXPR 1  // fmt 9 takes nvcc for a compiler without
#endif
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace conclave {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

/// Throws an Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an Error with a formatted message unless `condition` holds; costs one branch when it does.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace conclave
